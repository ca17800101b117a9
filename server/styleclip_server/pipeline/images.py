"""Photos as upright RGB images (`styleclip_contract.photo_files`), and encoding of images."""

from __future__ import annotations

import functools
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleclip_contract import limits, photo_files
from styleclip_contract.errors import UnknownFormat
from styleclip_contract.photo_files import check_pixels
from styleclip_server.pipeline import metadata


def decode(data: bytes, min_long_side: int = 0, keep_gps: bool = False) -> Image.Image:
    """Decode a photo as `photo_files.decode` does; `info["exif"]` is `metadata.filter_exif`'s.

    Args:
        keep_gps: keep the location in the EXIF data.
    """
    read_exif = functools.partial(metadata.filter_exif, keep_gps=keep_gps)
    return photo_files.decode(data, min_long_side, read_exif)


def check_encoding(format: str, quality: int) -> str:
    """Check format and quality against `limits`, and return the format in capitals.

    Raises:
        UnknownFormat: one of them is not accepted.
    """
    name = format.upper()
    if name not in limits.FORMATS:
        raise UnknownFormat(f"FORMAT is {format[:20]!r}, expected {', '.join(limits.FORMATS)}")
    low, high = limits.QUALITY
    if not low <= quality <= high:
        raise UnknownFormat(f"QUALITY is {quality}, expected a number from {low} to {high}")
    return name


def largest_crop(image_size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """Return width and height of the largest crop of an image in the shape of width x height."""
    scale = min(image_size[0] / width, image_size[1] / height)
    return max(1, round(width * scale)), max(1, round(height * scale))


def encode(
    image: NDArray[np.uint8] | Image.Image,
    format: str = limits.DEFAULT_FORMAT,
    quality: int = limits.DEFAULT_QUALITY,
    extra: metadata.Metadata | None = None,
) -> bytes:
    """Encode an RGB image as JPEG, PNG or WEBP.

    Args:
        image: pixels (H, W, 3) uint8, or an RGB image.
        quality: 1 to 100, of JPEG and WEBP.
        extra: metadata to write into the file.

    Raises:
        UnknownFormat: another format or quality, or a side too long for the format.
        ValueError: pixels of another shape or dtype.
    """
    if isinstance(image, np.ndarray):
        image = _from_pixels(image)
    name = check_encoding(format, quality)
    max_side = limits.MAX_SIDE.get(name, 0)
    if max_side and max(image.size) > max_side:
        raise UnknownFormat(f"{name} supports sides of up to {max_side} pixels; request PNG")
    options: dict[str, Any] = {"quality": quality}
    if name == "PNG":
        options = {"compress_level": 1}  # the default, 6, takes several times longer
    elif name == "JPEG" and quality >= 90:
        options["subsampling"] = 0  # at high quality, lips and eyes keep their full color detail
    if extra is not None:
        options |= metadata.save_options(name, extra)
    buffer = io.BytesIO()
    image.save(buffer, name, **options)
    return buffer.getvalue()


def _from_pixels(pixels: NDArray[np.uint8]) -> Image.Image:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"expected uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")
    check_pixels(pixels.shape[1], pixels.shape[0])
    return Image.fromarray(np.ascontiguousarray(pixels))
