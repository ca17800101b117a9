"""Choosing the picture: samples, upload, camera; the face in it; what the encoder understood."""

from __future__ import annotations

import io
from pathlib import Path

import streamlit as st
from link import png, words
from PIL import Image, ImageDraw, ImageOps
from state import Page, Photo
from styleclip_client import Domain, StyleclipError, errors, limits

_SAMPLES = Path(__file__).resolve().parent.parent / "demo" / "samples"
_SHOWN = 1024  # pixels of the longer side, for showing
_TYPES = ["jpg", "jpeg", "png", "webp"]
_MOST_FACES = 8


@st.cache_data(show_spinner=False)
def samples() -> dict[str, bytes]:
    """The pictures that come with the project, title to bytes; the same for everybody."""
    return {
        path.stem.replace("-", " ").capitalize(): path.read_bytes()
        for path in sorted(_SAMPLES.glob("*.png"))
    }


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
        image = Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP"))
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


def choose(page: Page, domain: Domain) -> None:
    """Draw the chooser; a new choice becomes `page.photo`."""
    source = st.segmented_control(
        "Picture from",
        ["Samples", "Upload", "Camera"],
        default="Samples",
        required=True,
        key="source",
    )
    if source == "Samples":
        with st.container(horizontal=True, gap="xsmall"):
            for title, data in samples().items():
                with st.container(width=58, gap="xsmall"):
                    st.image(data, width=58, alt=title)
                    st.button(
                        title.removeprefix("Avatar ") or title,
                        help=f"Edit {title}",
                        key=f"sample-{title}",
                        type="primary" if page.photo and page.photo.title == title else "secondary",
                        width="stretch",
                        on_click=_take,
                        args=(page, data, title, domain.align),
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


def options(page: Page, domain: Domain) -> None:
    """How to read the picture: find the face first or not, and which face."""
    photo = page.photo
    assert photo
    with st.popover("Picture options"):
        align = st.toggle(
            "Find the face first",
            value=photo.align,
            key=f"align-{photo.title}-{domain.name}-{photo.align}",
            help="On: find a face in a photo and cut it out as the model expects it. "
            "Off: the picture is such a face already.",
        )
        if align != photo.align:
            page.photo = Photo(photo.data, photo.title, align)
            st.rerun()
        if photo.align and st.toggle("Several faces? Show all", key="faces"):
            _faces(page, domain)


def _faces(page: Page, domain: Domain) -> None:
    photo = page.photo
    assert photo
    image = upright(photo.data)
    with st.container(horizontal=True, gap="small"):
        for face in range(_MOST_FACES):
            try:
                inverted = page.link.invert(domain, photo.data, True, face)
            except errors.FaceIndexOutOfRange:
                break
            except StyleclipError as error:
                st.error(words(error))
                break
            with st.container(width=92, gap="xsmall"):
                st.image(
                    crop(image, photo.data, inverted.quad, 184), width=92, alt=f"Face {face + 1}"
                )
                st.button(
                    f"Face {face + 1}",
                    key=f"face-{face}",
                    type="primary" if photo.face == face else "secondary",
                    on_click=_pick,
                    args=(page, face),
                )


def _pick(page: Page, face: int) -> None:
    assert page.photo
    page.photo = Photo(page.photo.data, page.photo.title, True, face)


def crop(image: Image.Image, data: bytes, quad: object, size: int = 512) -> bytes:
    """The face that the encoder read: `quad`, in pixels of the whole picture, as PNG."""
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP")) as whole:
        longer = max(whole.size)
    scale = max(image.size) / longer
    corners = [float(value) for point in quad for value in point]  # type: ignore[attr-defined]
    # PIL counts from the corner of a pixel, the quad from its middle.
    corners = [(value + 0.5) * scale for value in corners]
    return png(
        image.transform((size, size), Image.Transform.QUAD, corners, Image.Resampling.BICUBIC)
    )


def _take(page: Page, data: bytes, title: str, align: bool) -> None:
    page.photo = Photo(data, title, align)


def _take_upload(page: Page, given: object, title: str, align: bool) -> None:
    """Take over an upload once: going back to a sample must not bring it back."""
    if given is None:
        return
    file_id = str(given.file_id)  # type: ignore[attr-defined]
    if page.applied.get(title) == file_id:
        return
    page.applied[title] = file_id
    data = given.getvalue()  # type: ignore[attr-defined]
    try:
        upright(data)
    except StyleclipError as error:
        st.error(words(error))
        return
    _take(page, data, title, align)
