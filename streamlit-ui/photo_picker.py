"""Choosing the picture: samples, upload, camera; the face in it; what the encoder understood."""

from __future__ import annotations

import functools
import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import faces
import numpy as np
import streamlit as st
import thumbnails
from PIL import Image, ImageDraw, ImageOps
from server_calls import Link, Photo, jpeg, words
from state import Page

from styleclip_client import Domain, Inverted, StyleclipError
from styleclip_contract import errors, limits

_SAMPLES = Path(__file__).resolve().parent.parent / "demo" / "samples"
_SHOWN = 1024  # pixels of the longer side, for showing
_TYPES = ["jpg", "jpeg", "png", "webp"]
_FORMATS = ("JPEG", "PNG", "WEBP")


@st.cache_data(show_spinner=False)
def samples(align: bool) -> list[Photo]:
    """The pictures that come with the project, the same for everybody: photos, or face crops."""
    return [
        Photo(path.read_bytes(), path.stem.replace("-", " ").capitalize(), align, sample=True)
        for path in sorted(_SAMPLES.glob("photo-*.jpg" if align else "avatar-*.png"))
    ]


def icon() -> Image.Image:
    """The page's icon: a small face."""
    image = Image.new("RGBA", (32, 32))
    draw = ImageDraw.Draw(image)
    draw.ellipse((1, 1, 30, 30), fill="#5b46c9")
    draw.ellipse((9, 10, 13, 15), fill="white")
    draw.ellipse((18, 10, 22, 15), fill="white")
    draw.arc((8, 10, 23, 24), 20, 160, fill="white", width=2)
    return image


def upright(data: bytes) -> Image.Image:
    """The picture as it is shown: RGB, turned upright, reduced to `_SHOWN` pixels.

    Raises NotAnImage, ImageTooLarge or ImageTruncated before much memory is used.
    """
    if len(data) > limits.PHOTO_BYTES:
        raise errors.ImageTooLarge(
            f"the picture has {len(data) / 2**20:.1f} MiB, the limit is "
            f"{limits.PHOTO_BYTES / 2**20:g} MiB"
        )
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except Exception as error:  # Pillow's readers raise many kinds for what is no picture
        raise errors.NotAnImage("this file is no picture that can be read") from error
    if image.width * image.height > limits.PHOTO_PIXELS:
        raise errors.ImageTooLarge(
            f"the picture has {image.width} x {image.height} pixels, the limit is "
            f"{limits.PHOTO_PIXELS / 1e6:g} million"
        )
    try:
        image.draft("RGB", (_SHOWN, _SHOWN))
        shown = ImageOps.exif_transpose(image)
        if shown.has_transparency_data:  # on black, as the server reads it
            shown = shown.convert("RGBA")
        shown = shown.convert("RGB")
    except Exception as error:
        raise errors.ImageTruncated("the picture's data end early or are damaged") from error
    shown.thumbnail((_SHOWN, _SHOWN))
    return shown


def choose(page: Page, domain: Domain) -> Any:
    """Draw the chooser; a new choice becomes `page.photo`. Returns the place for its faces."""
    source = st.segmented_control(
        "Picture from",
        ["Samples", "Upload", "Camera"],
        default="Samples",
        required=True,
        key="source",
        label_visibility="collapsed",
    )
    if source == "Samples":
        with st.container(horizontal=True, gap="xsmall"):
            for sample in samples(domain.align):
                with st.container(width=46, gap="xsmall"):
                    small = page.link.drawn(
                        ("sample", sample.digest),
                        functools.partial(thumbnails.thumbnail, sample.data, 92),
                    )
                    thumbnails.show(small, sample.title, 46)
                    st.button(
                        sample.title.split()[-1],
                        help=f"Edit {sample.title}",
                        key=f"sample-{sample.title}",
                        type="primary" if page.photo == sample else "secondary",
                        width="stretch",
                        on_click=page.take,
                        args=(sample,),
                    )
    elif source == "Upload":
        given = st.file_uploader(
            "A picture with a face: JPEG, PNG or WebP, 32 MB at most",
            type=_TYPES,
            max_upload_size=limits.PHOTO_BYTES // 2**20,
            key="upload",
        )
        _take_upload(page, given, "Your picture", domain.align)
    else:
        given = st.camera_input("Look into the camera and take a picture", key="camera")
        _take_upload(page, given, "Camera picture", domain.align)
    assert page.photo
    if not page.photo.sample:
        st.session_state.setdefault("align", page.photo.align)
        st.toggle(
            "Find the face first",
            key="align",
            help="On: find a face in the photo and cut it out as the model expects it. "
            "Off: the picture is such a face already.",
            on_change=_read_anew,
            args=(page,),
        )
    return st.container()


def choose_face(page: Page, domain: Domain, place: Any) -> None:
    """Show the faces of a photo that has several, the one that is edited marked."""
    photo, now = page.photo, page.inverted
    if photo is None or now is None or not photo.align or photo.sample:
        return
    with place:
        try:
            with st.spinner("Looking for more faces"):
                found = page.link.faces(domain, photo)
        except StyleclipError as error:
            st.error(words(error))
            return
        if not found:
            return
        st.markdown(f"**{len(found)} faces were found:** click the one to edit.")
        faces.chooser(
            shown(page.link, photo),
            size(photo.data),
            [face.quad for face in found],
            _nearest(now, found),
            lambda face: page.take(replace(photo, face=face)),
        )


def shown(link: Link, photo: Photo) -> bytes:
    """The whole picture, upright and not larger than `_SHOWN`, as JPEG."""
    return link.drawn(("photo", photo.digest), lambda: jpeg(upright(photo.data)))


def crop(link: Link, photo: Photo, inverted: Inverted) -> bytes:
    """The face that the encoder read, as JPEG."""
    quad = inverted.quad
    return link.drawn(("crop", photo.digest, quad.tobytes()), lambda: jpeg(_cut(photo.data, quad)))


def size(data: bytes) -> tuple[int, int]:
    """Width and height of the upright picture."""
    with Image.open(io.BytesIO(data), formats=_FORMATS) as image:
        turned = image.getexif().get(0x0112, 1) >= 5  # EXIF's orientations that swap the sides
        return (image.height, image.width) if turned else image.size


def _cut(data: bytes, quad: np.ndarray, side: int = 512) -> Image.Image:
    image = upright(data)
    # PIL counts from the corner of a pixel, the quad from its middle.
    corners = (quad + 0.5) * (max(image.size) / max(size(data)))
    return image.transform(
        (side, side),
        Image.Transform.QUAD,
        [float(value) for value in corners.ravel()],
        Image.Resampling.BICUBIC,
    )


def _nearest(now: Inverted, found: tuple[Inverted, ...]) -> int:
    """Which face is edited: the largest one is asked for without its number."""
    middle = now.quad.mean(axis=0)
    return min(
        range(len(found)),
        key=lambda face: float(np.abs(found[face].quad.mean(axis=0) - middle).sum()),
    )


def _read_anew(page: Page) -> None:
    assert page.photo
    page.photo = replace(page.photo, align=st.session_state.align, face=-1)


def _take_upload(page: Page, given: Any, title: str, align: bool) -> None:
    """Take over an upload once: going back to a sample must not bring it back."""
    if given is None or page.applied.get(title) == given.file_id:
        return
    data = given.getvalue()
    try:
        upright(data)
    except StyleclipError as error:
        st.error(words(error))
        return
    page.applied[title] = given.file_id
    page.take(Photo(data, title, align))
