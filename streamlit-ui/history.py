"""The results of the session, each with a button to go back to it."""

from __future__ import annotations

import streamlit as st
from error_messages import escape_markdown
from session import Session
from thumbnails import show_thumbnail


def show_history(session: Session) -> None:
    """Show the session's results, the newest first."""
    if not session.history:
        return
    st.header("History")
    with st.container(horizontal=True, gap="small"):
        for number, entry in reversed(list(enumerate(session.history, 1))):
            targets = ", ".join(edit.label for edit in entry.recipe.edits)
            with st.container(width=92, gap="xsmall"):
                show_thumbnail(entry.thumbnail, targets, 92)
                st.button(
                    f"Back to {number}",
                    key=f"history-{number}",
                    help=f"Go back to: {escape_markdown(targets)}",
                    width="stretch",
                    on_click=session.restore,
                    args=(entry,),
                )
    if not session.pinned and st.button(
        "Pin the newest result",
        help="Moving a slider changes the newest entry. Once pinned, it stays, and the next change "
        "adds an entry.",
    ):
        session.pinned = True
        st.rerun()
