"""Widgets to choose the photo: samples, upload, camera; and the face in it."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import numpy as np
import photos
import streamlit as st
from error_messages import describe_error
from face_chooser import show_face_chooser
from photos import Photo
from session import Session
from thumbnails import encode_thumbnail, show_thumbnail

from styleclip_client import Domain, Inverted, StyleclipError
from styleclip_client.images import PHOTO_SUFFIXES
from styleclip_contract import limits

_EXTENSIONS = [suffix[1:] for suffix in PHOTO_SUFFIXES]
_PHOTO_MIB = limits.PHOTO_BYTES // 2**20
_SAMPLE_WIDTH = 46  # pixels


def show_photo_picker(session: Session, domain: Domain) -> Any:
    """Show the sources of photos; a new choice becomes `session.photo`.

    Returns:
        The container for `show_faces`, which needs the photo's inversion first.
    """
    source = st.segmented_control(
        "Photo source",
        ["Samples", "Upload", "Camera"],
        default="Samples",
        required=True,
        key="source",
        label_visibility="collapsed",
    )
    if source == "Samples":
        _show_samples(session, domain)
    elif source == "Upload":
        file = st.file_uploader(
            f"A photo of a face: JPEG, PNG, WebP, HEIC or another, at most {_PHOTO_MIB} MiB",
            type=_EXTENSIONS,
            max_upload_size=_PHOTO_MIB,
            key="upload",
        )
        _handle_upload(session, file, "Your photo", domain.align)
    else:
        file = st.camera_input("Look into the camera and take a photo", key="camera")
        _handle_upload(session, file, "Camera photo", domain.align)
    assert session.photo
    if not session.photo.sample:
        st.session_state.align = session.photo.align  # in each run: one may be interrupted
        st.toggle(
            "Find the face first",
            key="align",
            help="On: find a face in the photo and crop it as the model expects. "
            "Off: the photo is such a crop already.",
            on_change=_apply_align,
            args=(session,),
        )
    return st.container()


def show_faces(session: Session, domain: Domain, container: Any) -> None:
    """Show the faces of a photo that has several, with the edited one marked."""
    photo, inverted = session.photo, session.inverted
    if photo is None or inverted is None or not photo.align or photo.sample:
        return
    with container:
        try:
            with st.spinner("Looking for more faces"):
                faces = session.server.invert_faces(domain, photo)
        except StyleclipError as error:
            st.error(describe_error(error))
            return
        if not faces:
            return
        st.markdown(f"**{len(faces)} faces were found:** click the one to edit.")
        show_face_chooser(
            photos.render_photo(session.cache, photo),
            photos.read_size(photo.data),
            [face.quad for face in faces],
            _find_nearest(inverted, faces),
            lambda face: session.select_photo(replace(photo, face=face)),
        )


def _show_samples(session: Session, domain: Domain) -> None:
    with st.container(horizontal=True, gap="xsmall"):
        for number, sample in enumerate(photos.load_samples(domain.align), 1):
            with st.container(width=_SAMPLE_WIDTH, gap="xsmall"):
                thumbnail = session.cache.get_or_compute(
                    ("sample", sample.digest),
                    functools.partial(encode_thumbnail, sample.data, 2 * _SAMPLE_WIDTH),
                    len,
                )
                show_thumbnail(thumbnail, sample.title, _SAMPLE_WIDTH)
                st.button(
                    str(number),
                    help=f"Edit {sample.title}",
                    key=f"sample-{sample.title}",
                    type="primary" if session.photo == sample else "secondary",
                    width="stretch",
                    on_click=session.select_photo,
                    args=(sample,),
                )


def _handle_upload(session: Session, file: Any, title: str, align: bool) -> None:
    """Select an uploaded photo once: it must not come back after a sample was chosen."""
    if file is None or session.handled_files.get(title) == file.file_id:
        return
    data = file.getvalue()
    try:
        photos.decode(data)
    except StyleclipError as error:
        st.error(describe_error(error))
        return
    session.handled_files[title] = file.file_id
    session.select_photo(Photo(data, title, align))


def _apply_align(session: Session) -> None:
    assert session.photo
    session.photo = replace(session.photo, align=st.session_state.align, face=-1)


def _find_nearest(inverted: Inverted, faces: tuple[Inverted, ...]) -> int:
    """Return the index of the edited face; by default it is the largest, of unknown index."""
    center = inverted.quad.mean(axis=0)
    distances = [float(np.abs(face.quad.mean(axis=0) - center).sum()) for face in faces]
    return int(np.argmin(distances))
