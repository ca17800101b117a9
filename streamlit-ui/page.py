"""The page, which `app.py` serves.

How state flows:
1. Streamlit runs this script from top to bottom at every interaction with the page.
2. `get_session` returns the browser session's one `Session`: photo, edits, history, server.
3. Controls (photo_picker, edit_controls) fill it, buttons in callbacks before the run.
4. Results (views, downloads, history) read it and call the server through `ServerSession`, which
   caches every response by its inputs.
5. While a slider is dragged, the browser asks `live_edits` for images; this script runs on release.
6. The status badge alone also runs by itself, and reruns the script when the server has changed.
"""

from __future__ import annotations

import page_style
import streamlit as st
from downloads import show_downloads
from edit_controls import show_edit_controls
from history import show_history
from page_address import restore_from_address, show_in_address
from photo_picker import show_faces, show_photo_picker
from photos import load_samples
from server_address import parse_server_address
from server_status import (
    refresh_status,
    session_status,
    show_server_details,
    show_status_badge,
)
from session import Session, get_session
from starlette.formparsers import MultiPartParser
from views import show_inversion, show_view

from styleclip_client import Domain
from styleclip_contract import limits

# Uploads stay in memory: Starlette writes those above 1 MB to a temporary file by default.
MultiPartParser.spool_max_size = limits.PHOTO_BYTES + 2**20


def main() -> None:
    st.set_page_config("StyleCLIP", page_style.draw_icon(), layout="wide")
    st.html(page_style.CSS)
    address = parse_server_address()
    try:
        session = get_session(address)
        refresh_status(session)
    except ValueError as error:  # an address that cannot be parsed
        st.error(str(error))
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.title("Edit a face with words", anchor=False, width="content")
        show_status_badge(session, session_status(session))
    # Always there, so that what appears in them does not move, and thus recreate, what is below.
    warning_placeholder, notice_placeholder = st.empty(), st.empty()
    if not session.server_ready:
        warning_placeholder.warning(
            f"No server answers at **{address}**, or it is still starting. Start one with "
            "`make serve`; the page continues by itself as soon as it answers."
            + (" Your photo and edits are kept." if session.photo else "")
        )
    if session.domain is None:
        return
    fill_defaults(session, session.domain)
    if session.notice:
        notice_placeholder.info(session.notice)
    show_editor(session, session.domain)


def fill_defaults(session: Session, domain: Domain) -> None:
    """Begin with the edits of the address, else with the first sample and the first preset."""
    if session.fidelity not in domain.fidelities:
        session.fidelity = domain.default_fidelity
    if session.photo is None and not session.rows:
        restore_from_address(session, domain)
    if session.photo is None:
        session.select_photo(load_samples(domain.align)[0])
    if not session.rows:
        session.add_row(domain.presets[0].edit if domain.presets else None)


def show_editor(session: Session, domain: Domain) -> None:
    """Show the controls, then the results: they depend on the values of the controls."""
    with st.container(key="work"):
        left, right = st.columns([3, 2], gap="large")
    with right:
        with st.expander("Photo", expanded=True, icon=":material/image:"):
            faces_container = show_photo_picker(session, domain)
        show_edit_controls(session, domain)
    with left:
        show_view(session, domain)
    show_faces(session, domain, faces_container)
    left, right = st.columns([3, 2], gap="large")
    with left:
        show_downloads(session, domain)
        show_history(session)
    with right:
        show_inversion(session, domain)
    show_server_details(session)
    show_in_address(session)


main()
