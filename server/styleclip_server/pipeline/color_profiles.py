"""ICC profiles: pictures that are not RGB become sRGB, RGB pictures keep their numbers.

A photo in a wide-gamut RGB profile (phones write Display P3) keeps pixels and profile, so that
what is not edited stays identical; only the face goes to sRGB, which the networks know, and back.
Profiles are untrusted data that LittleCMS reads: their length is bounded, and a broken one counts
as none.
"""

from __future__ import annotations

import functools
import io

from PIL import Image, ImageCms

_LONGEST = 2**21  # bytes; printers' CMYK profiles have up to 1.5 MB
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_SPACES = {"RGB": "RGB ", "CMYK": "CMYK", "L": "GRAY", "LAB": "Lab "}


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def profile_of(picture: Image.Image, mode: str) -> bytes | None:
    """The ICC profile that an opened picture carries, if it is readable and made for `mode`."""
    profile = picture.info.get("icc_profile")
    if not isinstance(profile, bytes) or not 128 <= len(profile) <= _LONGEST:
        return None
    opened = _opened(profile)
    return profile if opened and opened.profile.xcolor_space == _SPACES.get(mode) else None


def to_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """A picture in mode RGB, L, CMYK or LAB as RGB in sRGB; without profile by plain arithmetic."""
    transform = _transform(profile, picture.mode) if profile else None
    if not transform and picture.mode == "LAB":
        transform = _from_lab()
    return _applied(transform, picture) if transform else picture.convert("RGB")


def from_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """The RGB `picture` in the space of the RGB `profile`; as it is without one."""
    transform = _transform(profile, "RGB", True) if profile else None
    return _applied(transform, picture) if transform else picture


def _applied(transform: ImageCms.ImageCmsTransform, picture: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(picture, transform)
    assert converted is not None  # None only comes from work in place
    return converted


@functools.lru_cache(32)
def _opened(profile: bytes) -> ImageCms.ImageCmsProfile | None:
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except Exception:  # LittleCMS and Pillow raise several kinds for broken profiles
        return None


@functools.lru_cache(32)
def _transform(profile: bytes, mode: str, back: bool = False) -> ImageCms.ImageCmsTransform | None:
    """From `profile` to sRGB or, with `back`, from sRGB; None if it is sRGB or unusable."""
    opened = _opened(profile)
    if opened is None:
        return None
    if mode == "RGB" and "sRGB" in (opened.profile.profile_description or ""):
        return None
    ends = (_srgb(), opened) if back else (opened, _srgb())
    try:
        return ImageCms.buildTransform(*ends, mode, "RGB", _INTENT)
    except Exception:  # a profile may be readable and yet lack the tables for this way
        return None


@functools.cache
def _from_lab() -> ImageCms.ImageCmsTransform:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return ImageCms.buildTransform(lab, _srgb(), "LAB", "RGB", _INTENT)
