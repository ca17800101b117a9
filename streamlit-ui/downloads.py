"""Downloads of the result: image, recipe, GIF; and loading a recipe."""

from __future__ import annotations

from typing import Any

import streamlit as st
from error_messages import describe_error
from inverted_faces import face_digest
from session import RenderedGif, Session
from sweeps import render_gif
from views import render_result

from styleclip_client import Domain, Edit, StyleclipError
from styleclip_client.recipe import Recipe
from styleclip_contract import limits


def show_downloads(session: Session, domain: Domain) -> None:
    """Show the buttons that download the result, and the uploader of a recipe."""
    try:
        edits, recipe = session.active_edits(), session.to_recipe()
    except StyleclipError:
        return  # edit_controls reports it beside the edit
    st.header("Download")
    row = st.container(horizontal=True, vertical_alignment="center")
    progress_container = st.container()
    with row:
        _show_image_download(session, domain, edits)
        st.download_button(
            "Recipe",
            recipe.to_json() if recipe else "",
            "styleclip-recipe.json",
            "application/json",
            icon=":material/receipt_long:",
            on_click="ignore",
            disabled=not recipe,
            help="The texts and numbers, without your photo: to load again or to share.",
            key="download-recipe",
        )
        _show_gif_download(session, edits, progress_container)
    with st.expander("Load a recipe"):
        file = st.file_uploader(
            "A recipe that this page or the command line wrote (JSON)",
            type=["json"],
            max_upload_size=1,
            key="recipe",
        )
        _handle_recipe(session, file)


def _show_image_download(session: Session, domain: Domain, edits: list[Edit]) -> None:
    format = st.segmented_control(
        "Image format",
        limits.FORMATS,
        default="JPEG",
        required=True,
        key="format",
        label_visibility="collapsed",
    )
    paste = bool(session.photo and session.photo.align and st.session_state.get("paste"))
    st.download_button(
        "Image",
        # Rendered at the click: moving a slider must not render this format too.
        lambda: render_result(session, domain, edits, paste, format).picture,
        f"styleclip{limits.SUFFIX_BY_FORMAT[format]}",
        f"image/{format.lower()}",
        icon=":material/download:",
        on_click="ignore",
        disabled=session.inverted is None,
        help="At the full resolution of the model; pasted back, of your photo.",
        key="download",
    )


def _show_gif_download(session: Session, edits: list[Edit], progress_container: Any) -> None:
    inverted = session.inverted
    source = (face_digest(inverted) if inverted else b"", tuple(edits))
    if session.gif and session.gif.source == source:
        st.download_button(
            "GIF",
            session.gif.data,
            "styleclip.gif",
            "image/gif",
            icon=":material/download:",
            on_click="ignore",
            key="download-gif",
        )
        return
    if not st.button(
        "Make a GIF",
        icon=":material/animation:",
        disabled=not edits or inverted is None,
        help="From no change to the full strength and back.",
    ):
        return
    assert inverted
    bar = progress_container.progress(0.0, "Rendering the GIF")
    # A click ends this run of the script, and with it the work.
    progress_container.button("Cancel", icon=":material/close:", key="cancel-gif")
    try:
        data = render_gif(session.server, inverted, edits, bar.progress)
    except StyleclipError as error:
        st.error(describe_error(error))
        return
    session.gif = RenderedGif(source, data)
    st.rerun()


def _handle_recipe(session: Session, file: Any) -> None:
    """Load an uploaded recipe once, so that the edits can be changed afterwards."""
    if file is None:
        session.handled_files.pop("recipe", None)
        return
    if session.handled_files.get("recipe") == file.file_id:
        return
    try:
        recipe = Recipe.from_json(file.getvalue()[: limits.RECIPE_BYTES + 1])
    except StyleclipError as error:
        st.error(describe_error(error))
        return
    session.handled_files["recipe"] = file.file_id
    session.load_recipe(recipe)
    st.rerun()
