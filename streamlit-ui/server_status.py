"""The server's status on the page: the badge that follows it, and the table of timings."""

from __future__ import annotations

import time

import pandas as pd
import streamlit as st
from error_messages import describe_error
from session import Session

from styleclip_client import StyleclipError

_INTERVAL = 3.0  # seconds between two status calls
_CALL_NAMES = {
    "invert": "inverting the photo",
    "edit": "editing",
    "paste": "editing and pasting",
    "direction": "layers",
}


def refresh_status(session: Session) -> None:
    """Ask the server for its status, at most every few seconds, and store it in the session."""
    if time.monotonic() < session.status_time + _INTERVAL * 0.9:
        return
    try:
        status = session.server.status()
    except StyleclipError:
        session.server_ready = False
        return
    finally:
        session.status_time = time.monotonic()
    session.server_ready = status.ready and status.domain is not None
    if status.domain:
        version = status.generator_version
        if (session.domain, session.model_version) != (status.domain, version):
            session.cache.clear()
        session.domain, session.model_version = status.domain, version


@st.fragment(run_every=_INTERVAL)
def show_status_badge(session: Session, page_status: tuple[object, ...]) -> None:
    """Show whether the server is ready; rerun the script when its status is not `page_status`.

    It also reruns when the server is ready again after a call failed.
    """
    refresh_status(session)
    if page_status != session_status(session) or (session.server_ready and session.retry):
        session.retry = False
        st.rerun()
    if session.server_ready and session.domain:
        st.badge(
            f"Server ready: {session.domain.title}, model version {session.model_version}",
            icon=":material/check_circle:",
            color="green",
        )
    else:
        st.badge("Server unavailable", icon=":material/cloud_off:", color="red")


def session_status(session: Session) -> tuple[object, ...]:
    """Return everything of the server's status that the page depends on."""
    return session.server_ready, session.domain, session.model_version


def show_server_details(session: Session) -> None:
    """Show the models that the server runs and how long requests take."""
    expander = st.expander("Server and timings", key="server-details", on_change="rerun")
    if not expander.open:
        return
    with expander:
        if session.server.call_times:
            _show_session_times(session)
        try:
            _show_server_times(session)
        except StyleclipError as error:
            st.error(describe_error(error))


def _show_session_times(session: Session) -> None:
    times = pd.DataFrame(session.server.call_times, columns=["call", "ms"])
    times["call"] = times["call"].replace(_CALL_NAMES)
    table = times.groupby("call").ms.agg(["count", "median", "last"])
    table = table.rename(columns={"median": "median ms", "last": "last ms"})
    st.markdown("**This session's calls**, milliseconds from the page to the server and back")
    st.table(table.style.format(precision=1))


def _show_server_times(session: Session) -> None:
    status, timings = session.server.status(), session.server.client.timings()
    models = {model.name: (model.version, model.state) for model in status.models}
    rows = [
        (
            timing.name,
            *models.get(timing.name, ("", "")),
            timing.requests,
            1000 * timing.seconds / max(1, timing.requests),
            1000 * timing.waiting / max(1, timing.requests),
        )
        for timing in timings
    ]
    columns = ["model", "version", "state", "requests", "mean ms", "of it in queue"]
    st.markdown(f"**Inside the server** (Triton {status.version}), requests of all clients")
    st.table(pd.DataFrame(rows, columns=columns).set_index("model").style.format(precision=1))
