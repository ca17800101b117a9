"""The page: `streamlit run app.py -- --server localhost:8001`, or `make ui`."""

from __future__ import annotations

import time

import edit_controls
import pandas as pd
import photo_picker
import results
import streamlit as st
from server_calls import server_address, words
from starlette.formparsers import MultiPartParser
from state import Page, page

from styleclip_client import StyleclipError
from styleclip_contract import errors, limits

LOOK_SECONDS = 3.0  # between two looks at the server

# Uploads stay in memory: Starlette would put those beyond 1 MB into a temporary file.
MultiPartParser.spool_max_size = limits.PHOTO_BYTES + 2**20

# A picture of our own as the icon: the browser would fetch an emoji or a named icon from elsewhere.
st.set_page_config("StyleCLIP", photo_picker.icon(), layout="wide")
# Streamlit has no settings for these: a smaller title, less space around the page, and a picture
# that stays in sight while the controls scroll (on a phone the columns lie below each other).
st.html(
    """<style>
    .stMainBlockContainer { max-width: 1400px; padding: 3.8rem 5vw 4rem; }
    .stMainBlockContainer h1 { font-size: 1.8rem; padding: 0; }
    .stMainBlockContainer h2 { font-size: 1.4rem; padding-bottom: .5rem; }
    [data-testid=stCaptionContainer] p { color: inherit; }
    [data-testid=stCaptionContainer] { color: inherit; opacity: .8; }
    .stMainBlockContainer .stHorizontalBlock { row-gap: 1rem; }
    .st-key-work .stColumn:first-of-type:not(.stColumn .stColumn) {
      position: sticky; top: 3.75rem; align-self: flex-start; }
    @media (max-width: 640px) {
      .stMainBlockContainer { padding-left: 1rem; padding-right: 1rem; }
      .st-key-work .stColumn:first-of-type:not(.stColumn .stColumn) {
        background: Canvas; z-index: 9; max-height: 62vh; overflow-y: auto; }
    }
    </style>"""
)


def look(held: Page) -> None:
    """Ask the server how it is, now and then; its domain and version become the page's."""
    if time.monotonic() < held.looked + LOOK_SECONDS * 0.9:
        return
    try:
        status = held.link.status()
    except errors.StyleclipError:
        held.up = False
        return
    finally:
        held.looked = time.monotonic()
    held.up = status.ready and status.domain is not None
    if status.domain:
        version = next((m.version for m in status.models if m.name == "stylegan2"), "")
        if (held.domain, held.version) != (status.domain, version):
            held.link.forget()
        held.domain, held.version = status.domain, version


@st.fragment(run_every=LOOK_SECONDS)
def watch(held: Page, was_up: bool, drawn: tuple[object, str]) -> None:
    """Show the server's state; draw the page anew when it changed or can be tried again."""
    look(held)
    if held.up != was_up or drawn != (held.domain, held.version) or (held.up and held.failed):
        held.failed = False
        st.rerun()
    if held.up and held.domain:
        st.badge(
            f"Server ready: {held.domain.title}, model version {held.version}",
            icon=":material/check_circle:",
            color="green",
        )
    else:
        st.badge("Server away", icon=":material/cloud_off:", color="red")


def know(held: Page) -> None:
    """Where the time went, and what the server serves."""
    opened = st.expander("Server and timings", key="know", on_change="rerun")
    if not opened.open:
        return
    with opened:
        if held.link.spent:
            names = {
                "invert": "reading the picture",
                "edit": "editing",
                "paste": "editing and pasting",
                "direction": "layers",
            }
            spent = pd.DataFrame(held.link.spent, columns=["what", "ms"])
            table = spent.groupby("what").ms.agg(["count", "median", "last"])
            table.index = pd.Index([names.get(name, name) for name in table.index], name="call")
            st.markdown(
                "**This session's calls**, milliseconds from the page to the server and back"
            )
            table = table.rename(columns={"median": "median ms", "last": "last ms"})
            st.table(table.style.format(precision=1))
        try:
            status, timings = held.link.status(), held.link.client.timings()
        except StyleclipError as error:
            st.error(words(error))
            return
        versions = {model.name: (model.version, model.state) for model in status.models}
        lines = [
            (
                timing.name,
                *versions.get(timing.name, ("", "")),
                timing.requests,
                1000 * timing.seconds / max(1, timing.requests),
                1000 * timing.waiting / max(1, timing.requests),
            )
            for timing in timings
        ]
        columns = ["model", "version", "state", "requests", "mean ms", "of it waiting"]
        st.markdown(f"**Inside the server** (Triton {status.version}), everybody's requests")
        table = pd.DataFrame(lines, columns=columns).set_index("model")
        st.table(table.style.format(precision=1))


def main() -> None:
    address = server_address()
    try:
        held = page(address)
        look(held)
    except ValueError as error:
        st.error(str(error))
        return
    with st.container(horizontal=True, vertical_alignment="center", gap="medium"):
        st.title("Edit a face with words", anchor=False, width="content")
        watch(held, held.up, (held.domain, held.version))
    # Places that are always there: what comes and goes must not move what is below, which the
    # browser would make anew.
    warning, notice = st.empty(), st.empty()
    if not held.up:
        warning.warning(
            f"No server answers at **{address}**, or it is still starting. Start one with "
            "`make serve`; the page goes on by itself as soon as it answers."
            + (" Your picture and edits are kept." if held.photo else "")
        )
    domain = held.domain
    if domain is None:
        return
    if held.photo is None:
        held.take(photo_picker.samples(domain.align)[0])
    if not held.rows:
        held.add(domain.presets[0].edit if domain.presets else None)
    if held.notice:
        notice.info(held.notice)

    with st.container(key="work"):
        left, right = st.columns([3, 2], gap="large")
    with right:
        with st.expander("Picture", expanded=True, icon=":material/image:"):
            more_faces = photo_picker.choose(held, domain)
        edit_controls.controls(held, domain)
    with left:
        results.show(held, domain)
    photo_picker.choose_face(held, domain, more_faces)
    first, second = st.columns([3, 2], gap="large")
    with first:
        results.keep(held, domain)
        results.history(held)
    with second:
        results.understood(held, domain)
    know(held)


main()
