"""Pictures in (path, bytes, PIL or NumPy), pictures and latents out, files never half-written."""

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
    "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image | NDArray[np.uint8]"
)

PARTIAL = ".part"  # ends the name of a file that is being written


def photo_bytes(photo: Photo) -> bytes:
    """The encoded photo to send, at most `limits.PHOTO_BYTES` long.

    Files and bytes travel as they are (the server decodes them and turns them upright). A PIL
    picture is turned upright as its EXIF orientation says and packed as PNG, so nothing is lost.
    An array is uint8: grey [H, W], RGB [H, W, 3] or RGBA [H, W, 4].
    Raises NotAnImage, ImageTooLarge, or OSError for a file that cannot be read.
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
        if size > limits.PHOTO_BYTES:  # before reading it all
            raise _too_large(str(path), size)
        data = path.read_bytes()
    if not data:
        raise NotAnImage("the photo is empty; a JPEG, PNG or WebP picture is expected")
    if len(data) > limits.PHOTO_BYTES:
        raise _too_large("the photo", len(data))
    return data


def _from_array(pixels: NDArray[np.uint8]) -> Image.Image:
    shape = pixels.shape
    sides = shape if pixels.ndim == 2 else shape[:2] if shape[2:] in ((3,), (4,)) else ()
    if pixels.dtype != np.uint8 or len(sides) != 2 or 0 in sides:
        raise NotAnImage(
            f"the array is {pixels.dtype} of shape {list(shape)}; uint8 of [height, width], "
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
    if upright.mode not in ("L", "RGB", "RGBA"):
        upright = upright.convert("RGB")
    buffer = io.BytesIO()
    upright.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _too_large(name: str, size: int) -> ImageTooLarge:
    return ImageTooLarge(
        f"{name} has {size / 2**20:.1f} MiB, the server accepts "
        f"{limits.PHOTO_BYTES / 2**20:g} MiB: make it smaller"
    )


def write_file(path: Path, data: bytes, *, overwrite: bool) -> None:
    """Write `data` under a temporary name beside `path`, then rename it: whole or not at all.

    Raises FileExistsError when `path` exists and `overwrite` is false.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")
    try:
        with partial.open("xb") as file:
            file.write(data)
        if overwrite:
            partial.replace(path)
        else:
            _place(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _place(partial: Path, path: Path) -> None:
    """Give a file its name unless that is taken, even by somebody who came in between."""
    try:
        path.hardlink_to(partial)
    except FileExistsError as error:
        raise FileExistsError(f"{path} exists") from error
    except OSError as error:  # some file systems have no links
        if path.exists():
            raise FileExistsError(f"{path} exists") from error
        partial.replace(path)
