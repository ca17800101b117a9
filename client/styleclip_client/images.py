"""Photos from paths, bytes, PIL images or arrays, and files that are written atomically."""

from __future__ import annotations

import io
import os
import secrets
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from styleclip_contract import limits
from styleclip_contract.errors import ImageTooLarge, NotAnImage

Photo: TypeAlias = (
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.generic]"
)

FORMAT_BY_SUFFIX = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
# What the server may be able to read; other files of a folder are ignored.
PHOTO_SUFFIXES = (*FORMAT_BY_SUFFIX, ".avif", ".bmp", ".gif", ".heic", ".heif", ".tif", ".tiff")
PARTIAL = ".part"  # ends the name of a file that is being written


def photo_bytes(photo: Photo) -> bytes:
    """Return the encoded photo to send.

    Args:
        photo: a path or the bytes of a file, which are sent as they are; a PIL image, which is
            turned upright by its EXIF orientation and encoded as PNG; or an array, which is encoded
            as PNG: uint8, gray [H, W], gray and alpha [H, W, 2], RGB [H, W, 3] or RGBA [H, W, 4];
            or gray [H, W] of uint16 (white is 65535) or bool.

    Raises:
        NotAnImage: the photo is empty, or the array has another shape or dtype.
        ImageTooLarge: it has more than `limits.PHOTO_BYTES` or `limits.PHOTO_PIXELS`.
        OSError: the file cannot be read.
    """
    if isinstance(photo, np.ndarray):
        photo = _from_array(photo)
    if isinstance(photo, Image.Image):
        data = _encode(photo)
    elif isinstance(photo, (bytes, bytearray, memoryview)):
        data = bytes(photo)
    else:
        path = Path(photo)
        size = path.stat().st_size
        if size > limits.PHOTO_BYTES:  # before it is read
            raise _too_large(str(path), size)
        data = path.read_bytes()
    if not data:
        raise NotAnImage("the photo is empty; a JPEG, PNG or WebP image is expected")
    if len(data) > limits.PHOTO_BYTES:
        raise _too_large("the photo", len(data))
    return data


def _from_array(pixels: NDArray[np.generic]) -> Image.Image:
    shape, kind = pixels.shape, pixels.dtype
    gray = len(shape) == 2 and kind in (np.uint8, np.uint16, np.bool_)
    color = len(shape) == 3 and kind == np.uint8 and shape[2] in (2, 3, 4)
    if not (gray or color) or 0 in shape:
        raise NotAnImage(
            f"the array is {kind} of shape {list(shape)}; uint8 of [height, width], "
            "[height, width, 3] or [height, width, 4] is expected, from 0 to 255"
        )
    return Image.fromarray(np.ascontiguousarray(pixels))


def _encode(image: Image.Image) -> bytes:
    if image.width * image.height > limits.PHOTO_PIXELS:
        raise ImageTooLarge(
            f"the photo has {image.width} x {image.height} pixels, the server accepts "
            f"{limits.PHOTO_PIXELS / 1e6:g} million: make it smaller"
        )
    upright = ImageOps.exif_transpose(image)
    if upright.mode not in ("L", "RGB", "RGBA"):  # others cannot all be written as PNG
        from styleclip_contract import photo_files  # its readers of photos are loaded when needed

        upright = photo_files.flatten(upright)
    buffer = io.BytesIO()
    upright.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _too_large(name: str, size: int) -> ImageTooLarge:
    return ImageTooLarge(
        f"{name} has {size / 2**20:.1f} MiB, the server accepts "
        f"{limits.PHOTO_BYTES / 2**20:g} MiB: make it smaller"
    )


def write_file(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write a file atomically: under a temporary name beside `path`, which is then renamed.

    Raises:
        FileExistsError: `path` exists and `overwrite` is false.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            file.write(data)
        if overwrite:
            partial.replace(path)
        else:
            _rename_to_free(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _rename_to_free(partial: Path, path: Path) -> None:
    """Rename a file unless `path` exists, even if another process has just created it."""
    try:
        path.hardlink_to(partial)
    except FileExistsError as error:
        raise FileExistsError(f"{path} exists") from error
    except OSError as error:  # some file systems have no links
        if path.exists():
            raise FileExistsError(f"{path} exists") from error
        partial.replace(path)
