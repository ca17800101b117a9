"""Photos on the page: decoding within limits, the aligned face, and the samples.

A photo stays encoded in the session; what is shown of it is decoded here, without the server.
"""

from __future__ import annotations

import functools
import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import streamlit as st
from cache import SessionCache
from numpy.typing import NDArray
from PIL import Image

from styleclip_client import Inverted
from styleclip_contract import color_profiles, photo_files

_SAMPLES = Path(__file__).resolve().parent.parent / "demo" / "samples"
_DISPLAY_SIDE = 1024  # pixels of the longer side


@dataclass(frozen=True)
class Photo:
    """An encoded photo as it was uploaded, and how to invert it.

    `align`: find and align a face first; `face`: which one, -1 for the largest.
    """

    data: bytes
    title: str
    align: bool
    face: int = -1
    sample: bool = False

    @functools.cached_property
    def digest(self) -> bytes:
        return compute_digest(self.data)


@st.cache_data(show_spinner=False)
def load_samples(align: bool) -> list[Photo]:
    """Load the project's samples, shared by all sessions: photos, or face crops for no `align`."""
    return [
        Photo(path.read_bytes(), path.stem.replace("-", " ").capitalize(), align, sample=True)
        for path in sorted(_SAMPLES.glob("p*.jpg" if align else "avatar-*.png"))
    ]


def decode(data: bytes) -> Image.Image:
    """Decode a photo for display as the server does for editing, at most 1024 pixels long.

    Raises:
        NotAnImage, ImageTooLarge, ImageTruncated: before the pixels of a large image are decoded.
    """
    image = photo_files.decode(data, _DISPLAY_SIDE)
    image = color_profiles.to_srgb(image, color_profiles.read_profile(image, "RGB"))
    image.thumbnail((_DISPLAY_SIDE, _DISPLAY_SIDE))
    return image


def read_size(data: bytes) -> tuple[int, int]:
    """Read width and height of the upright photo from its header."""
    with Image.open(io.BytesIO(data), formats=photo_files.INPUT_FORMATS) as image:
        rotated = photo_files.read_orientation(image) >= 5  # these swap width and height
        return (image.height, image.width) if rotated else image.size


def render_photo(cache: SessionCache, photo: Photo) -> bytes:
    """Encode the upright photo for display, as JPEG."""
    return cache.get_or_compute(
        ("photo", photo.digest), lambda: encode_jpeg(decode(photo.data)), len
    )


def render_face(cache: SessionCache, photo: Photo, inverted: Inverted) -> bytes:
    """Encode the face crop that the encoder was given, as JPEG."""
    return cache.get_or_compute(
        ("face", photo.digest, inverted.quad.tobytes()),
        lambda: encode_jpeg(crop_face(photo.data, inverted.quad)),
        len,
    )


def crop_face(data: bytes, quad: NDArray[np.floating], side: int = 512) -> Image.Image:
    """Cut the aligned face out of a photo, RGB, `side` pixels wide.

    Args:
        quad: float [4, 2], corners of the crop in pixels of the upright photo (`Inverted.quad`).
    """
    image = decode(data)
    # Pillow's coordinates start at a pixel's corner, the quad's at its center.
    corners = (quad + 0.5) * (max(image.size) / max(read_size(data)))
    down, right = (float(np.hypot(*(quad[i] - quad[0]))) for i in (1, 3))
    return image.transform(
        (side, max(1, round(side * down / right))),
        Image.Transform.QUAD,
        [float(value) for value in corners.ravel()],
        Image.Resampling.BICUBIC,
    )


def encode_jpeg(image: Image.Image, quality: int = 92) -> bytes:
    """Encode an image for display."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def compute_digest(data: bytes) -> bytes:
    """Return a short digest that identifies `data`."""
    return hashlib.blake2b(data, digest_size=16).digest()
