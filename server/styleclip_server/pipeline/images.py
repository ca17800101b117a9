"""Untrusted bytes to an upright RGB picture, and pixels to bytes again.

Everything that a stranger chooses is bounded before it costs anything: the length of the bytes,
then width x height as the header tells them, and only then the pixels are decoded. Formats are
an allow-list, since Pillow knows dozens that no photo comes in and each is more code to attack
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
Image.init()  # Pillow registers AVIF and others only on demand; opening by a missing name fails
_FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF")
    if name in Image.OPEN
)
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")
_BRANDS = (b"avif", b"avis", b"heic", b"heix", b"mif1", b"msf1")  # of AVIF and HEIC

# EXIF 2.32, tag 0x0112: what turns a stored picture upright.
_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_UPRIGHT[orientation] for orientation in (5, 6, 7, 8)}


def decode(data: bytes, longest: int = 0, gps: bool = False) -> Image.Image:
    """The first frame of an encoded picture, upright, mode RGB, 8 bits.

    With `longest`, a JPEG photo may come at a half, a quarter or an eighth of its size, in a
    fraction of the time and memory, as long as its long side keeps `longest` pixels;
    `info["full_size"]` then has its own width and height, upright.

    EXIF orientation is applied, transparency lies over white, grey, 16-bit, CMYK and Lab pictures
    become sRGB by their ICC profiles. An RGB picture keeps its numbers, as in the official
    alignment code, and its profile in `info["icc_profile"]`; `info["exif"]` holds what
    `metadata.kept_exif` lets through, with `gps` the place too. Nothing else of the file remains.

    Raises NotAnImage (no picture in an accepted format), ImageTruncated (data end early or are
    damaged), ImageTooLarge (over `limits.PHOTO_BYTES` or `limits.PHOTO_PIXELS`).
    """
    if len(data) > limits.PHOTO_BYTES:
        raise ImageTooLarge(
            f"the photo has {len(data) / 2**20:.1f} MiB, at most "
            f"{limits.PHOTO_BYTES / 2**20:g} MiB are accepted: make it smaller"
        )
    try:
        return _decode(data, longest, gps)
    except StyleclipError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning, MemoryError) as error:
        raise ImageTooLarge(
            f"the photo has more than {limits.PHOTO_PIXELS / 1e6:g} million pixels: make it smaller"
        ) from error
    except Exception as error:
        # Pillow's plugins raise whatever their parsers meet (OSError, SyntaxError, ValueError,
        # struct.error, zlib.error, …); which one depends on the byte that is wrong.
        if isinstance(error, UnidentifiedImageError) and not _begins_like_a_picture(data):
            raise NotAnImage(
                f"the photo's {len(data)} bytes are no picture; send one of {', '.join(_FORMATS)}"
            ) from error
        raise ImageTruncated(
            f"the photo's data end early or are damaged ({error}); send the whole file"
        ) from error


def _decode(data: bytes, longest: int, gps: bool) -> Image.Image:
    with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
        check_pixels(picture.width, picture.height)
        full = picture.size
        if longest and max(full) >= 2 * longest:
            share = longest / max(full)
            picture.draft(None, (max(1, int(full[0] * share)), max(1, int(full[1] * share))))
        picture.load()
        upright = _UPRIGHT.get(_orientation(picture))
        kept: dict[str, Any] = {"exif": metadata.kept_exif(picture, gps)}
        if picture.size != full:
            kept["full_size"] = full[::-1] if upright in _SIDEWAYS else full
        if ImageMode.getmode(picture.mode).basemode == "RGB":
            kept["icc_profile"] = color_profiles.profile_of(picture, "RGB")
        rgb = _rgb(picture)
    if upright is not None:
        rgb = rgb.transpose(upright)
    # A plain Image: the file's own class, frames and leftovers end here.
    plain = rgb if type(rgb) is Image.Image else rgb._new(rgb.im)
    plain.info = {name: value for name, value in kept.items() if value}
    return plain


def check_pixels(width: int, height: int) -> None:
    """Raises NotAnImage for an empty picture, ImageTooLarge over `limits.PHOTO_PIXELS`."""
    if width < 1 or height < 1:
        raise NotAnImage(f"the picture has {width} x {height} pixels, at least 1 x 1 is expected")
    if width * height > limits.PHOTO_PIXELS:
        raise ImageTooLarge(
            f"the picture has {width} x {height} pixels, at most "
            f"{limits.PHOTO_PIXELS / 1e6:g} million are accepted: make it smaller"
        )


def _begins_like_a_picture(data: bytes) -> bool:
    riff = data[:4] == b"RIFF" and data[8:12] == b"WEBP"
    return data.startswith(_SIGNATURES) or riff or (data[4:8] == b"ftyp" and data[8:12] in _BRANDS)


def _orientation(picture: Image.Image) -> int:
    try:
        return int(picture.getexif().get(_ORIENTATION, 1))
    except Exception:  # sound pixels with broken metadata are still a photo
        return 1


def _rgb(picture: Image.Image) -> Image.Image:
    mode = picture.mode
    if mode == "RGB" and not picture.has_transparency_data:
        return picture
    if mode.startswith(("I", "F")):
        return color_profiles.to_srgb(_eight_bits(picture), color_profiles.profile_of(picture, "L"))
    if mode in ("L", "CMYK", "LAB") and not picture.has_transparency_data:
        return color_profiles.to_srgb(picture, color_profiles.profile_of(picture, mode))
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    rgba = picture if mode == "RGBA" else picture.convert("RGBA")
    white = Image.new("RGB", rgba.size, "white")
    white.paste(rgba, mask=rgba.getchannel("A"))
    return white


def _eight_bits(picture: Image.Image) -> Image.Image:
    """Mode L: integers span 0 to 65535, floats 0 to 1, as TIFF and PNG store them."""
    result = Image.new("L", picture.size)
    rows = max(1, 2**20 // picture.width)  # a strip at a time: floats need four times the memory
    for top in range(0, picture.height, rows):
        box = (0, top, picture.width, min(top + rows, picture.height))
        grey = np.asarray(picture.crop(box))
        white = 1.0 if grey.dtype.kind == "f" else 65535.0
        values = np.nan_to_num(grey.astype(np.float32)) * (255.0 / white)
        result.paste(Image.fromarray(np.rint(values.clip(0, 255)).astype(np.uint8)), box)
    return result


def check_encoding(format: str, quality: int) -> str:
    """The format in capitals. Raises UnknownFormat for a format or quality beyond `limits`."""
    name = format.upper()
    if name not in limits.FORMATS:
        raise UnknownFormat(f"FORMAT is {format[:20]!r}, expected {', '.join(limits.FORMATS)}")
    low, high = limits.QUALITY
    if not low <= quality <= high:
        raise UnknownFormat(f"QUALITY is {quality}, expected a number from {low} to {high}")
    return name


def encode(
    picture: NDArray[np.uint8] | Image.Image,
    format: str = "JPEG",
    quality: int = 95,
    beside: metadata.Metadata | None = None,
) -> bytes:
    """RGB pixels (H, W, 3) uint8 or an RGB picture as JPEG, PNG or WEBP with metadata `beside`.

    `quality` 1 to 100 counts for JPEG and WEBP. Raises UnknownFormat for another format or quality,
    or a picture whose sides are too long for the format (WEBP ends at 16383 pixels, JPEG at 65500);
    ValueError for another shape or dtype.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise ValueError(f"expected uint8 (H, W, 3), got {picture.dtype} {picture.shape}")
        check_pixels(picture.shape[1], picture.shape[0])
        picture = Image.fromarray(np.ascontiguousarray(picture))
    name = check_encoding(format, quality)
    longest = {"JPEG": 65500, "WEBP": 16383}.get(name)
    if longest and max(picture.size) > longest:
        raise UnknownFormat(f"{name} holds sides of at most {longest} pixels; ask for PNG")
    options: dict[str, Any] = {"quality": quality}
    if name == "PNG":
        options = {"compress_level": 1}  # 6, the default, costs several times the time
    elif name == "JPEG" and quality >= 90:
        options["subsampling"] = 0  # who asks for quality wants the colour of lips and eyes whole
    if beside is not None:
        options |= metadata.save_options(name, beside)
    buffer = io.BytesIO()
    picture.save(buffer, name, **options)
    return buffer.getvalue()
