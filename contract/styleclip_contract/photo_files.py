"""Decoding of untrusted photos to upright RGB images: one rule for the server and the page.

Every cost is bounded in advance: first by the number of bytes, then by width x height in the
header; only then are pixels decoded. Formats are an allow-list, since Pillow reads dozens in which
no photo comes, each of them more code to attack
(https://pillow.readthedocs.io/en/stable/handbook/security.html).
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image, ImageMode, UnidentifiedImageError

from styleclip_contract import color_profiles, limits
from styleclip_contract.errors import ImageTooLarge, ImageTruncated, NotAnImage, StyleclipError

with contextlib.suppress(ImportError):  # a client without the server need not decode photos
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
Image.init()  # registers AVIF and other plugins, which Image.open(formats=...) does not
INPUT_FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
    if name in Image.OPEN
)
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_AVIF_BRANDS = (b"avif", b"avis")
_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_OBJECT = re.compile(r"<[^<>]* object at 0x[0-9a-fA-F]+>")  # what Python prints of a buffer

# EXIF 2.32, tag 0x0112: how a stored image becomes upright.
_ORIENTATION_TAG = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = {UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}


def decode(
    data: bytes,
    min_long_side: int = 0,
    read_exif: Callable[[Image.Image], bytes | None] = lambda image: None,
) -> Image.Image:
    """Decode the first frame of an encoded photo to an upright 8-bit RGB image.

    EXIF orientation is applied, transparency is blended with white, and grayscale, 16-bit, CMYK and
    Lab images are converted to sRGB by their ICC profiles. RGB pixels stay as they are, as in the
    official alignment code, and keep their profile.

    Args:
        min_long_side: if positive, a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size, which is
            faster and saves memory, as long as its long side keeps this many pixels.
        read_exif: returns the EXIF data to keep of the opened file.

    Returns:
        A plain image. Its `info` has nothing but, where they exist, `exif`, `icc_profile`, and for
        a reduced image `full_size`: the width and height of the full-size upright photo.

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
        return _decode(data, min_long_side, read_exif)
    except StyleclipError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise ImageTooLarge(
            f"the photo has more than {limits.PHOTO_PIXELS / 1e6:g} million pixels: make it smaller"
        ) from error
    except Exception as error:
        # Pillow's plugins raise whatever their parsers run into (OSError, SyntaxError, ValueError,
        # struct.error, zlib.error, …), depending on which byte is wrong.
        raise _named_error(data, error) from error


def _named_error(data: bytes, error: Exception) -> StyleclipError:
    """Return the error of a file that Pillow does not read."""
    brand = data[8:12] if data[4:8] == b"ftyp" else b""
    if brand in _HEIC_BRANDS and "HEIF" not in INPUT_FORMATS:
        return NotAnImage(
            "the photo is HEIC, which is not read here: run `pip install pillow-heif` where the "
            f"photo is read, or send one of {', '.join(INPUT_FORMATS)}"
        )
    known = data.startswith(_SIGNATURES) or brand in (*_AVIF_BRANDS, *_HEIC_BRANDS)
    known = known or (data[:4] == b"RIFF" and data[8:12] == b"WEBP")
    if not isinstance(error, UnidentifiedImageError):
        reason = _OBJECT.sub("the file", str(error)) or type(error).__name__
        return ImageTruncated(
            f"the photo's data is truncated or corrupted ({reason}); send the complete file"
        )
    if known:
        return ImageTruncated(
            "the photo's data is truncated or corrupted (its header cannot be read); "
            "send the complete file"
        )
    return NotAnImage(
        f"the photo's {len(data)} bytes are not an image; send one of {', '.join(INPUT_FORMATS)}"
    )


def _decode(
    data: bytes, min_long_side: int, read_exif: Callable[[Image.Image], bytes | None]
) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=INPUT_FORMATS) as image:
        check_pixels(image.width, image.height)
        full_size = image.size
        if min_long_side and max(full_size) >= 2 * min_long_side:
            scale = min_long_side / max(full_size)
            width, height = (max(1, int(side * scale)) for side in full_size)
            image.draft(None, (width, height))
        image.load()
        transpose = UPRIGHT.get(read_orientation(image))
        info: dict[str, Any] = {"exif": read_exif(image)}
        if image.size != full_size:
            info["full_size"] = full_size[::-1] if transpose in _SWAPS_SIDES else full_size
        rgb = flatten(image)
    info["icc_profile"] = rgb.info.get("icc_profile")
    if transpose is not None:
        rgb = rgb.transpose(transpose)
    rgb.info = {name: value for name, value in info.items() if value}
    return rgb


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


def read_orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8; 1 without one."""
    try:
        return int(image.getexif().get(_ORIENTATION_TAG, 1))
    except Exception:  # intact pixels with broken metadata are still a photo
        return 1


def flatten(image: Image.Image) -> Image.Image:
    """Convert an image of any mode that Pillow has to mode RGB, on white where it is transparent.

    Colors of other kinds than RGB are converted to sRGB by their ICC profiles.

    Returns:
        A plain image, without the file's own class, further frames and metadata; `info` has the
        `icc_profile` of RGB colors.
    """
    profile = None
    if ImageMode.getmode(image.mode).basemode == "RGB":
        profile = color_profiles.read_profile(image, "RGB")
    rgb = _to_rgb(image)
    plain = rgb if type(rgb) is Image.Image and rgb is not image else rgb._new(rgb.im)
    plain.info = {"icc_profile": profile} if profile else {}
    return plain


def _to_rgb(image: Image.Image) -> Image.Image:
    mode = image.mode
    if mode == "La":  # which Pillow converts to LA only
        image = image.convert("LA")
    if mode.startswith(("I", "F")):
        profile = color_profiles.read_profile(image, "L")
        return color_profiles.to_srgb(_to_eight_bits(image), profile)
    if image.has_transparency_data:
        rgba = image if image.mode == "RGBA" else image.convert("RGBA")
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
