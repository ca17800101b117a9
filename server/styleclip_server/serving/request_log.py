"""One line of JSON for each request that a Python step did, on Triton's own output.

The environment variable STYLECLIP_LOG_REQUESTS, which the launcher's --log-requests sets, says
which: `failures` (also when it is not set), `all`, or `none`. A line has the request's id as the
client gave it, the step, how long it took, what came of it and sizes; of photos nothing else, and
texts only where STYLECLIP_LOG_TEXTS is "1".
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

WHICH_VARIABLE = "STYLECLIP_LOG_REQUESTS"
TEXTS_VARIABLE = "STYLECLIP_LOG_TEXTS"
WHICH = ("failures", "all", "none")

_LONGEST_ID = 128  # characters; the id is the client's to choose


def note(
    step: str,
    request_id: str,
    seconds: float,
    inputs: Mapping[str, Any],
    error: BaseException | None = None,
) -> None:
    """Writes the line of a request; `inputs` are its arrays (N, …) by name, None if not sent."""
    which = os.environ.get(WHICH_VARIABLE) or WHICH[0]
    if which == "none" or (which != "all" and error is None):
        return
    with suppress(OSError):  # a full disk is no reason to fail a request
        text = json.dumps(line(step, request_id, seconds, inputs, error))
        print(text, file=sys.stderr, flush=True)


def line(
    step: str,
    request_id: str,
    seconds: float,
    inputs: Mapping[str, Any],
    error: BaseException | None,
) -> dict[str, Any]:
    """What `note` writes."""
    entry: dict[str, Any] = {
        "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
        "level": "info" if error is None or isinstance(error, InvalidInput) else "error",
        "step": step,
        "request_id": request_id[:_LONGEST_ID],
        "ms": round(seconds * 1000, 1),
        "outcome": "answered" if error is None else type(error).__name__,
    }
    photos = inputs.get("PHOTO")
    if photos is not None:
        entry["photo_bytes"] = [len(photo) for photo in photos.flat]
    if os.environ.get(TEXTS_VARIABLE) == "1":
        for name in ("NEUTRAL", "TARGET"):
            if (texts := inputs.get(name)) is not None:
                entry[name.lower()] = [text.decode("utf-8", "replace") for text in texts.flat]
        if error is not None:
            entry["message"] = str(error)
    elif error is not None and not isinstance(error, StyleclipError):
        # What a library says may quote its input, so of the unforeseen only the place is told.
        entry["place"] = _place(error)
    return entry


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    return f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
