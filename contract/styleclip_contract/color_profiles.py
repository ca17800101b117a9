"""Conversion between ICC profiles and sRGB, in which the networks were trained.

A photo in a wide-gamut RGB profile (phones write Display P3) keeps its pixels and its profile, so
that unedited parts stay identical; only the face is converted to sRGB and back. Profiles are
untrusted data: their length is bounded, and an unreadable one is ignored.
"""

from __future__ import annotations

import functools
import io

from PIL import Image, ImageCms

_MAX_BYTES = 2**21  # CMYK profiles of printers have up to 1.5 MB
_INTENT = ImageCms.Intent.RELATIVE_COLORIMETRIC
_COLOR_SPACES = {"RGB": "RGB ", "CMYK": "CMYK", "L": "GRAY", "LAB": "Lab "}


@functools.cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def read_profile(image: Image.Image, mode: str) -> bytes | None:
    """Return the image's ICC profile if it is readable and describes colors of `mode`."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or not 128 <= len(profile) <= _MAX_BYTES:
        return None
    parsed = _parse(profile)
    return profile if parsed and parsed.profile.xcolor_space == _COLOR_SPACES.get(mode) else None


def to_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an image of mode RGB, L, CMYK or LAB to sRGB (mode RGB).

    Without a profile, LAB is taken as Pillow's own LAB and other modes are converted by formula.
    """
    transform = _transform_to_srgb(profile, image.mode) if profile else None
    if not transform and image.mode == "LAB":
        transform = _transform_from_lab()
    return _apply(transform, image) if transform else image.convert("RGB")


def from_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert an sRGB image to the RGB `profile`; without one, return it unchanged."""
    transform = _transform_from_srgb(profile) if profile else None
    return _apply(transform, image) if transform else image


def _apply(transform: ImageCms.ImageCmsTransform, image: Image.Image) -> Image.Image:
    converted = ImageCms.applyTransform(image, transform)
    assert converted is not None  # only in-place conversion returns None
    return converted


@functools.lru_cache(32)
def _parse(profile: bytes) -> ImageCms.ImageCmsProfile | None:
    try:
        return ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except Exception:  # LittleCMS and Pillow raise several types for broken profiles
        return None


@functools.lru_cache(32)
def _transform_to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of `mode` to sRGB, or None if the profile is sRGB or unusable."""
    parsed = _parse(profile)
    if parsed is None or (mode == "RGB" and _is_srgb(parsed)):
        return None
    return _build_transform(parsed, _srgb(), mode)


@functools.lru_cache(32)
def _transform_from_srgb(profile: bytes) -> ImageCms.ImageCmsTransform | None:
    """Return the transform of sRGB to an RGB profile; None if that is sRGB or unusable."""
    parsed = _parse(profile)
    if parsed is None or _is_srgb(parsed):
        return None
    return _build_transform(_srgb(), parsed, "RGB")


def _is_srgb(profile: ImageCms.ImageCmsProfile) -> bool:
    return "sRGB" in (profile.profile.profile_description or "")


def _build_transform(
    source: ImageCms.ImageCmsProfile, target: ImageCms.ImageCmsProfile, mode: str
) -> ImageCms.ImageCmsTransform | None:
    try:
        return ImageCms.buildTransform(source, target, mode, "RGB", _INTENT)
    except Exception:  # a readable profile may lack the tables for this direction
        return None


@functools.cache
def _transform_from_lab() -> ImageCms.ImageCmsTransform:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB"))
    return ImageCms.buildTransform(lab, _srgb(), "LAB", "RGB", _INTENT)
