"""The views of the result: before/after, sweeps, layers; and the inversion beside them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import photos
import streamlit as st
from divider import Comparison, LiveSliders, show_divider
from error_messages import describe_error
from inverted_faces import with_fidelity
from layer_chart import show_layer_chart
from live_edits import LIVE_IMAGES, LiveEdits
from session import Session
from sweeps import show_grid, show_strip
from thumbnails import encode_thumbnail, show_thumbnail

from styleclip_client import Domain, Edit, Edited, StyleclipError
from styleclip_contract import errors, limits

_BEFORE_AFTER, _STRENGTHS, _GRID, _LAYERS = "Before / after", "Strengths", "α × β grid", "Layers"
_PHOTO, _RECONSTRUCTION = "Your photo", "Reconstruction"
_CAPTIONS = {limits.LATENT: _RECONSTRUCTION, limits.FEATURES: "With details"}
_HISTORY_SIDE = 184  # pixels, twice the width on the page


def show_view(session: Session, domain: Domain) -> None:
    """Show the chosen view of the photo with the active edits."""
    assert session.photo
    view = st.segmented_control(
        "View",
        (_BEFORE_AFTER, _STRENGTHS, _GRID, _LAYERS),
        default=_BEFORE_AFTER,
        required=True,
        key="view",
        label_visibility="collapsed",
    )
    # Containers that are always there, so that the browser keeps the image while others change.
    error_placeholder, image_container = st.empty(), st.container()
    status_placeholder = st.empty()
    session.inverted = None  # stays so if this photo cannot be inverted
    try:
        with status_placeholder, st.spinner("Reading the photo", show_time=True):
            inverted = session.server.invert(domain, session.photo)
        session.inverted = with_fidelity(inverted, session.fidelity)
        edits = session.active_edits()
        if view == _BEFORE_AFTER or not edits:
            if view != _BEFORE_AFTER:
                st.info("Switch an edit on, or say what the result should show.")
            _show_before_after(session, domain, edits, image_container, status_placeholder)
        else:
            with image_container:
                _show_analysis(session, domain, edits, view)
    except StyleclipError as error:
        if isinstance(error, errors.ServerUnavailable):
            session.retry = True
        error_placeholder.error(describe_error(error))
        if session.comparison:
            with image_container:
                show_divider(session.comparison, "Last result")


def render_result(
    session: Session, domain: Domain, edits: list[Edit], paste: bool, format: str = "JPEG"
) -> Edited:
    """Return the edited face, or with `paste` the photo around it; without edits the inversion."""
    assert session.photo and session.inverted
    edits = edits or [_zero_strength_edit(domain)]
    if paste:
        return session.server.paste(session.photo, session.inverted, edits, format)
    return session.server.edit(session.inverted, edits, format)


def show_inversion(session: Session, domain: Domain) -> None:
    """Show the encoder's input beside what the generator reconstructs with each fidelity."""
    photo = session.photo
    if photo is None or session.inverted is None:
        return
    try:
        inverted = session.server.invert(domain, photo)
        images = {"Input face": photos.render_face(session.cache, photo, inverted)}
        for fidelity in domain.fidelities:
            face = with_fidelity(inverted, fidelity)
            edited = session.server.edit(face, [_zero_strength_edit(domain)])
            images[_CAPTIONS[fidelity]] = edited.picture
    except StyleclipError:
        return  # show_view reports it
    st.header("Inversion")
    with st.container(horizontal=True, gap="small"):
        width = 160 if len(images) == 2 else 140  # pixels; all in one row on a laptop
        for caption, image in images.items():
            with st.container(width=width):
                show_thumbnail(image, caption, width, caption=caption)
    if len(domain.fidelities) > 1:
        st.session_state.details = session.fidelity == limits.FEATURES
        st.toggle(
            "Keep details",
            key="details",
            help="Edits keep what the encoder cannot put into its latent.",
            on_change=_apply_details,
            args=(session,),
        )
    st.segmented_control(
        "Compare the edit with",
        (_PHOTO, _RECONSTRUCTION),
        default=_PHOTO,
        required=True,
        key="before",
        help="The generator can only change what the encoder captured of your photo.",
    )


def _apply_details(session: Session) -> None:
    session.fidelity = limits.FEATURES if st.session_state.details else limits.LATENT


def _zero_strength_edit(domain: Domain) -> Edit:
    """Return an edit of strength 0, which leaves the latent unchanged.

    `edit` encodes and caches the image like any other result; `Client.draw` returns raw pixels.
    """
    # Any target differs from the neutral text.
    return Edit(domain.neutral, f"{domain.neutral} smiling", 0.0, 0.0)


def _show_before_after(
    session: Session,
    domain: Domain,
    edits: list[Edit],
    image_container: Any,
    status_placeholder: Any,
) -> None:
    assert session.photo
    with image_container:
        paste = session.photo.align and st.toggle(
            "Paste back into the photo",
            key="paste",
            help="The complete photo, with the edited face in its place.",
        )
    with status_placeholder, st.spinner("Editing", show_time=True):
        edited = render_result(session, domain, edits, paste)
    session.comparison = _compare(session, domain, edited.picture, edits, paste)
    session.retry = False
    with image_container:
        show_divider(session.comparison, live=_follow_sliders(session, domain, paste))
    if edits:
        counts = " + ".join(str(count) for count in edited.channels)
        status_placeholder.caption(f"{counts} of {sum(domain.style_channels)} channels are moved.")
    recipe = session.to_recipe()
    if edits and recipe:
        session.record_result(recipe, encode_thumbnail(edited.picture, _HISTORY_SIDE))


def _follow_sliders(session: Session, domain: Domain, paste: bool) -> LiveSliders:
    """Prepare `live_edits` for the session's edits and for directions that are still at 0."""
    assert session.photo and session.inverted
    rows = [row for row in session.rows if row.on and row.is_complete]
    edits = [row.to_edit() for row in rows]
    sliders: dict[str, tuple[int, str]] = {}
    for index, row in enumerate(rows):
        sliders |= {row.key(name): (index, name) for name in ("strength", "threshold")}
    for direction in domain.directions:
        sliders[session.direction_key(direction.name)] = (len(edits), "strength")
        edits.append(direction.edit(session.directions.get(direction.name, 0.0)))
    live = LiveEdits(
        session.inverted,
        tuple(edits),
        _zero_strength_edit(domain),
        session.photo if paste else None,
    )
    LIVE_IMAGES.put(session.live_id, live)
    return LiveSliders(session.live_id, sliders)


def _compare(
    session: Session, domain: Domain, after: bytes, edits: list[Edit], paste: bool
) -> Comparison:
    photo, inverted = session.photo, session.inverted
    assert photo and inverted
    description = ", ".join(edit.label for edit in edits) or "nothing is changed"
    subject = f"{photo.title} {photo.digest.hex()} {photo.face} {paste}"
    if paste:
        width, height = photos.read_size(photo.data)
        face_center = 100 * float(inverted.quad[:, 0].mean()) / width
        before = photos.render_photo(session.cache, photo)
        return Comparison(before, after, description, subject, width / height, face_center)
    if st.session_state.get("before") == _RECONSTRUCTION:
        before = render_result(session, domain, [], paste=False).picture
    else:
        before = photos.render_face(session.cache, photo, inverted)
    return Comparison(before, after, description, subject)


def _show_analysis(session: Session, domain: Domain, edits: list[Edit], view: str) -> None:
    assert session.inverted
    face = session.inverted
    if view == _LAYERS:
        show_layer_chart(session.server, domain, edits, face.w_plus)
        return
    varied = _select_edit(edits)
    # A direction has no threshold, so its grid is a strip.
    is_strip = view == _STRENGTHS or edits[varied].direction
    show_sweep = show_strip if is_strip else show_grid
    _run_cancellable(lambda: show_sweep(session.server, face, edits, varied, domain))


def _select_edit(edits: list[Edit]) -> int:
    """Let the user choose which of several edits a sweep varies; return its index."""
    if len(edits) == 1:
        return 0

    def label(index: int) -> str:
        edit = edits[index]
        if edit.direction:
            return f"{edit.direction}, {edit.strength:g}"
        return f"Edit {index + 1}: {edit.target}, α {edit.strength:g}, β {edit.threshold:g}"

    return int(st.selectbox("Vary", range(len(edits)), format_func=label) or 0)


def _run_cancellable(work: Callable[[], None]) -> None:
    """Run long work below a Cancel button: any interaction with the page interrupts the script."""
    placeholder = st.empty()
    placeholder.button("Cancel", icon=":material/close:", on_click=_select_before_after)
    work()
    placeholder.empty()


def _select_before_after() -> None:
    st.session_state.view = _BEFORE_AFTER
