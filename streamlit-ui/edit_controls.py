"""The controls of the edits: presets, texts, sliders, switches, named directions."""

from __future__ import annotations

import streamlit as st
from error_messages import describe_error
from session import EditRow, Session, strength_bounds

from styleclip_client import Domain, StyleclipError
from styleclip_contract import limits

_MAX_THRESHOLD = 0.5  # of the slider, unless the edit has more


def show_edit_controls(session: Session, domain: Domain) -> None:
    """Show the controls and copy their values into `session`."""
    if domain.presets:
        st.pills(
            "Ready-made edits",
            [preset.title for preset in domain.presets],
            key="preset",
            help="Fills the last edit below.",
            wrap=True,
            on_change=_apply_preset,
            args=(session, domain),
        )
    for number, row in enumerate(session.rows, 1):
        with st.container(border=True):
            _show_row(session, domain, row, number)
    st.button(
        "Add another edit",
        icon=":material/add:",
        disabled=len(session.rows) >= limits.EDITS,
        help="Edits are summed: glasses and a smile, say.",
        on_click=session.add_row,
    )
    if domain.directions:
        _show_directions(session, domain)


def _show_directions(session: Session, domain: Domain) -> None:
    """Show a slider for each named direction; at 0 it is not applied."""
    with st.container(border=True):
        st.markdown("**Directions**")
        for direction in domain.directions:
            session.directions[direction.name] = st.slider(
                direction.title,
                min(direction.low, 0.0),
                max(direction.high, 0.0),
                float(session.directions.get(direction.name, 0.0)),
                key=session.direction_key(direction.name),
                step=0.1,
                format="%.1f",
                help="Learned for this model, without words. 0 changes nothing.",
            )


def _apply_preset(session: Session, domain: Domain) -> None:
    title = st.session_state.preset
    st.session_state.preset = None
    if title:
        session.replace_last_row(domain.preset(title))


def _show_row(session: Session, domain: Domain, row: EditRow, number: int) -> None:
    with st.container(
        horizontal=True, horizontal_alignment="distribute", vertical_alignment="center"
    ):
        row.on = st.toggle(f"Edit {number}", **row.bind("on"), help="Off: the edit is not applied.")
        st.button(
            "Remove",
            icon=":material/delete:",
            key=f"remove-{row.id}",
            type="tertiary",
            help=f"Remove edit {number}",
            on_click=session.remove_row,
            args=(row.id,),
        )
    left, right = st.columns(2)
    target = left.text_input(
        "It should show",
        **row.bind("target"),
        max_chars=limits.TEXT_CHARACTERS,
        placeholder="a face with sunglasses",
        help="A few English words that describe the result you want.",
    )
    if target != row.target:
        row.change_target(target, domain)
    row.neutral = right.text_input(
        "The photo shows",
        **row.bind("neutral"),
        max_chars=limits.TEXT_CHARACTERS,
        help="The same words without what should change. The edit is how the two texts differ.",
    )
    low, high = strength_bounds(row.strength)
    row.strength = st.slider(
        "How strong (α)",
        low,
        high,
        **row.bind("strength"),
        step=0.1,
        format="%.1f",
        help="0 changes nothing; negative values apply the opposite of the edit.",
    )
    row.threshold = st.slider(
        "How focused (β)",
        0.0,
        max(_MAX_THRESHOLD, row.threshold),
        **row.bind("threshold"),
        step=0.01,
        help="To the right: only what matters most for the text changes. "
        "To the left: more changes along with it.",
    )
    if not row.is_complete:
        st.caption("Say what the result should show, or choose a ready-made edit.")
        return
    try:
        row.to_edit()
    except StyleclipError as error:
        st.error(describe_error(error))
