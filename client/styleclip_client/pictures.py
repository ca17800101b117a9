"""Pictures in (path, bytes or PIL), pictures and latents out, files never half-written."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TypeAlias

from PIL import Image, ImageOps

from styleclip_client import limits
from styleclip_client.errors import ImageTooLarge, NotAnImage

Picture: TypeAlias = "str | os.PathLike[str] | bytes | bytearray | memoryview | Image.Image"


def photo_bytes(photo: Picture) -> bytes:
    """The encoded photo to send, at most `limits.PHOTO_BYTES` long.

    Files and bytes travel as they are (the server decodes them and turns them upright). A PIL
    picture is turned upright as its EXIF orientation says and packed as PNG, so nothing is lost.
    Raises NotAnImage, ImageTooLarge, or OSError for a file that cannot be read.
    """
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
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with partial.open("xb") as file:
            file.write(data)
        if not overwrite and path.exists():
            raise FileExistsError(f"{path} exists")
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
