"""Decoding of untrusted bytes to an upright RGB image, and encoding of images.

Every cost is bounded in advance: first by the number of bytes, then by width x height in the
header; only then are pixels decoded. Formats are an allow-list, since Pillow reads dozens in which
no photo comes, each of them more code to attack
(https://pillow.readthedocs.io/en/stable/handbook/security.html).
"""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageMode, UnidentifiedImageError

from styleclip_contract import limits
from styleclip_contract.errors import (
    ImageTooLarge,
    ImageTruncated,
    NotAnImage,
    StyleclipError,
    UnknownFormat,
)
from styleclip_server.pipeline import color_profiles, metadata

with contextlib.suppress(ImportError):  # an extra: pip install 'styleclip-triton[heic]'
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
Image.init()  # registers AVIF and other plugins, which Image.open(formats=...) does not
_INPUT_FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
    if name in Image.OPEN
)
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_HEIF_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")

# EXIF 2.32, tag 0x0112: how a stored image becomes upright.
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = {_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}

_MAX_SIDE = {"JPEG": 65500, "WEBP": 16383}  # pixels; PNG has no such limit


def decode(data: bytes, min_long_side: int = 0, keep_gps: bool = False) -> Image.Image:
    """Decode the first frame of an encoded photo to an upright 8-bit RGB image.

    EXIF orientation is applied, transparency is blended with white, and grayscale, 16-bit, CMYK and
    Lab images are converted to sRGB by their ICC profiles. RGB pixels stay as they are, as in the
    official alignment code, and keep their profile.

    Args:
        min_long_side: if positive, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, which is
            faster and saves memory, as long as its long side keeps this many pixels.
        keep_gps: keep the location in the EXIF data.

    Returns:
        A plain image. Its `info` has nothing but, where they exist, `exif` (filtered by
        `metadata.filter_exif`), `icc_profile`, and for a reduced image `full_size`: the width and
        height of the full-size upright photo.

    Raises:
        NotAnImage: the bytes are not an image in an accepted format.
        ImageTruncated: the data is truncated or corrupted.
        ImageTooLarge: it exceeds `limits.PHOTO_BYTES` or `limits.PHOTO_PIXELS`.
    """
    if len(data) > limits.PHOTO_BYTES:
        raise ImageTooLarge(
            f"the photo has {len(data) / 2**20:.1f} MiB, at most "
            f"{limits.PHOTO_BYTES / 2**20:g} MiB are accepted: make it smaller"
        )
    try:
        return _decode(data, min_long_side, keep_gps)
    except StyleclipError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise ImageTooLarge(
            f"the photo has more than {limits.PHOTO_PIXELS / 1e6:g} million pixels: make it smaller"
        ) from error
    except Exception as error:
        # Pillow's plugins raise whatever their parsers run into (OSError, SyntaxError, ValueError,
        # struct.error, zlib.error, …), depending on which byte is wrong.
        if isinstance(error, UnidentifiedImageError) and not _has_image_signature(data):
            raise NotAnImage(
                f"the photo's {len(data)} bytes are not an image; "
                f"send one of {', '.join(_INPUT_FORMATS)}"
            ) from error
        raise ImageTruncated(
            f"the photo's data is truncated or corrupted ({error}); send the complete file"
        ) from error


def _decode(data: bytes, min_long_side: int, keep_gps: bool) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=_INPUT_FORMATS) as image:
        check_pixels(image.width, image.height)
        full_size = image.size
        if min_long_side and max(full_size) >= 2 * min_long_side:
            scale = min_long_side / max(full_size)
            width, height = (max(1, int(side * scale)) for side in full_size)
            image.draft(None, (width, height))
        image.load()
        transpose = _UPRIGHT.get(_orientation(image))
        info: dict[str, Any] = {"exif": metadata.filter_exif(image, keep_gps)}
        if image.size != full_size:
            info["full_size"] = full_size[::-1] if transpose in _SWAPS_SIDES else full_size
        if ImageMode.getmode(image.mode).basemode == "RGB":
            info["icc_profile"] = color_profiles.read_profile(image, "RGB")
        rgb = _to_rgb(image)
    if transpose is not None:
        rgb = rgb.transpose(transpose)
    # A plain Image, without the file's own class, further frames and other metadata.
    plain = rgb if type(rgb) is Image.Image else rgb._new(rgb.im)
    plain.info = {name: value for name, value in info.items() if value}
    return plain


def check_pixels(width: int, height: int) -> None:
    """Check the size of an image.

    Raises:
        NotAnImage: it is empty.
        ImageTooLarge: it exceeds `limits.PHOTO_PIXELS`.
    """
    if width < 1 or height < 1:
        raise NotAnImage(f"the image has {width} x {height} pixels, at least 1 x 1 is expected")
    if width * height > limits.PHOTO_PIXELS:
        raise ImageTooLarge(
            f"the image has {width} x {height} pixels, at most "
            f"{limits.PHOTO_PIXELS / 1e6:g} million are accepted: make it smaller"
        )


def _has_image_signature(data: bytes) -> bool:
    webp = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    heif = data[4:8] == b"ftyp" and data[8:12] in _HEIF_BRANDS
    return data.startswith(_SIGNATURES) or webp or heif


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # intact pixels with broken metadata are still a photo
        return 1


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode.startswith(("I", "F")):
        profile = color_profiles.read_profile(image, "L")
        return color_profiles.to_srgb(_to_eight_bits(image), profile)
    if image.has_transparency_data:
        rgba = image if mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", rgba.size, "white")
        white.paste(rgba, mask=rgba.getchannel("A"))
        return white
    if mode == "RGB":
        return image
    if mode in ("L", "CMYK", "LAB"):
        return color_profiles.to_srgb(image, color_profiles.read_profile(image, mode))
    return image.convert("RGB")


def _to_eight_bits(image: Image.Image) -> Image.Image:
    """Convert integers from 0 to 65535 or floats from 0 to 1 to mode L, as TIFF and PNG do."""
    result = Image.new("L", image.size)
    rows = max(1, 2**20 // image.width)  # in strips, since floats need four times the memory
    for top in range(0, image.height, rows):
        box = (0, top, image.width, min(top + rows, image.height))
        gray = np.asarray(image.crop(box))
        white = 1.0 if gray.dtype.kind == "f" else 65535.0
        values = np.nan_to_num(gray.astype(np.float32)) * (255.0 / white)
        result.paste(Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8)), box)
    return result


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
    max_side = _MAX_SIDE.get(name, 0)
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
