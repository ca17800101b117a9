"""The controls of the stack of edits: presets, texts, sliders, on/off."""

from __future__ import annotations

import streamlit as st
from server_calls import words
from state import Page, Row, strength_bounds, widget

from styleclip_client import Domain, StyleclipError
from styleclip_contract import limits


def controls(page: Page, domain: Domain) -> None:
    """Draw the stack and take the widgets' values into `page.rows`."""
    if domain.presets:
        st.pills(
            "Ready-made edits",
            [preset.title for preset in domain.presets],
            key="preset",
            help="Fills the last edit below.",
            wrap=True,
            on_change=_preset,
            args=(page, domain),
        )
    for number, row in enumerate(page.rows, 1):
        with st.container(border=True):
            _row(page, row, number)
    st.button(
        "Add another edit",
        icon=":material/add:",
        disabled=len(page.rows) >= limits.EDITS,
        help="Edits are summed: glasses and a smile, say.",
        on_click=page.add,
    )


def _preset(page: Page, domain: Domain) -> None:
    title = st.session_state.preset
    st.session_state.preset = None
    if title:
        page.fill(domain.preset(title))


def _row(page: Page, row: Row, number: int) -> None:
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"
    ):
        row.on = st.toggle(f"Edit {number}", key=widget(row, "on"), help="Off: kept, but not done.")
        st.button(
            "Remove",
            icon=":material/delete:",
            key=f"remove-{row.id}",
            type="tertiary",
            help=f"Remove edit {number}",
            on_click=page.remove,
            args=(row.id,),
        )
    shall, shows = st.columns(2)
    row.target = shall.text_input(
        "It should show",
        key=widget(row, "target"),
        max_chars=limits.TEXT_CHARACTERS,
        placeholder="a face with sunglasses",
        help="A few English words that describe the picture you want.",
    )
    row.neutral = shows.text_input(
        "The picture shows",
        key=widget(row, "neutral"),
        max_chars=limits.TEXT_CHARACTERS,
        help="The same words without what should change. What the two texts differ in is the edit.",
    )
    low, high = strength_bounds(row.strength)
    row.strength = st.slider(
        "How strong (α)",
        low,
        high,
        key=widget(row, "strength"),
        step=0.1,
        format="%.1f",
        help="0 changes nothing; to the left of 0 is the opposite of the edit.",
    )
    row.threshold = st.slider(
        "How focused (β)",
        0.0,
        max(0.5, row.threshold),
        key=widget(row, "threshold"),
        step=0.01,
        help="To the right: only what matters most for the text changes. "
        "To the left: more changes along with it.",
    )
    if not row.complete:
        st.caption("Say what the picture should show, or take a ready-made edit.")
        return
    try:
        row.edit()
    except StyleclipError as error:
        st.error(words(error))
