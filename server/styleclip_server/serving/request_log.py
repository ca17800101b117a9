"""One line of JSON for each request that a Python step answered, in Triton's output.

The launcher's --log-requests selects the requests. A line has the request's id as the client gave
it, the step, its duration, the outcome and sizes; nothing else of photos, and of texts nothing
unless --log-texts is given. The steps read both from environment variables.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timezone
from typing import Any

from styleclip_contract.errors import InvalidInput, StyleclipError
from styleclip_server.pipeline.cancellation import WorkCancelled

SELECTION_VARIABLE = "STYLECLIP_LOG_REQUESTS"
TEXTS_VARIABLE = "STYLECLIP_LOG_TEXTS"
SELECTIONS = ("failures", "all", "none")

_MAX_ID = 128  # characters; the client chooses the id

_EXPECTED = (InvalidInput, WorkCancelled)  # caused by the client


def log_request(
    step: str,
    request_id: str,
    seconds: float,
    inputs: Mapping[str, Any],
    error: BaseException | None = None,
) -> None:
    """Write the line of a request, if it is selected.

    Args:
        seconds: how long it took.
        inputs: its arrays (N, …) by name, None for one that was not sent.
        error: why it was refused or failed; None: it was answered.
    """
    selection = os.environ.get(SELECTION_VARIABLE) or SELECTIONS[0]
    if selection == "none" or (selection != "all" and error is None):
        return
    with suppress(OSError):  # a full disk is no reason to fail a request
        text = json.dumps(entry(step, request_id, seconds, inputs, error))
        print(text, file=sys.stderr, flush=True)


def entry(
    step: str,
    request_id: str,
    seconds: float,
    inputs: Mapping[str, Any],
    error: BaseException | None,
) -> dict[str, Any]:
    """Return the content of a request's line; the arguments are those of `log_request`."""
    fields: dict[str, Any] = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "level": "info" if error is None or isinstance(error, _EXPECTED) else "error",
        "step": step,
        "request_id": request_id[:_MAX_ID],
        "ms": round(seconds * 1000, 1),
        "outcome": "answered" if error is None else type(error).__name__,
    }
    photos = inputs.get("PHOTO")
    if photos is not None:
        fields["photo_bytes"] = [len(photo) for photo in photos.flat]
    return fields | (_texts(inputs, error) if _texts_allowed() else _error_place(error))


def _texts_allowed() -> bool:
    return os.environ.get(TEXTS_VARIABLE) == "1"


def _texts(inputs: Mapping[str, Any], error: BaseException | None) -> dict[str, Any]:
    fields: dict[str, Any] = {
        name.lower(): [text.decode("utf-8", "replace") for text in texts.flat]
        for name in ("NEUTRAL", "TARGET", "DIRECTION")
        if (texts := inputs.get(name)) is not None
    }
    return fields if error is None else fields | {"message": str(error)}


def _error_place(error: BaseException | None) -> dict[str, Any]:
    """Return only the place of an unforeseen error, whose message may quote its input."""
    if error is None or isinstance(error, (StyleclipError, WorkCancelled)):
        return {}
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
    return {"place": place}
