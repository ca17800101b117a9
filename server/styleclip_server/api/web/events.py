"""Progress of a long request as server-sent events, the last of which has the response."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse
from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from styleclip_contract.errors import ServerError, StyleclipError
from styleclip_server.api import problems
from styleclip_server.api.web import negotiation

T = TypeVar("T")
ReportProgress = Callable[[int, int], None]
"""Called with how many are done, and of how many."""

_log = logging.getLogger("styleclip_server")
_PING_SECONDS = 15.0  # between comments, so that no proxy takes the connection for dead


def ignore_progress(done: int, total: int) -> None:
    """Report no progress: the client has not requested events."""


def stream(
    work: Callable[[ReportProgress], Awaitable[T]],
    build_json: Callable[[T], dict[str, Any]],
    request_id: str,
) -> StreamingResponse:
    """Run `work` while its events are sent: `progress`, then `result` or `error`.

    Args:
        work: gets a function to report its progress with.
        build_json: turns its result into the data of the event `result`, in a thread.
        request_id: the id of the request, for `error`.
    """
    return StreamingResponse(
        _events(work, build_json, request_id),
        media_type=negotiation.EVENTS,
        headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
    )


async def _events(
    work: Callable[[ReportProgress], Awaitable[T]],
    build_json: Callable[[T], dict[str, Any]],
    request_id: str,
) -> AsyncIterator[bytes]:
    queue: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
    task = asyncio.ensure_future(work(lambda done, total: queue.put_nowait((done, total))))
    task.add_done_callback(lambda _: queue.put_nowait(None))
    try:
        while True:
            try:
                progress = await asyncio.wait_for(queue.get(), _PING_SECONDS)
            except asyncio.TimeoutError:
                yield KEEPALIVE_COMMENT
                continue
            if progress is None:
                break
            done, total = progress
            yield _event("progress", {"done": done, "total": total})
        try:
            result = task.result()
            # In a thread: a sheet of many pixels takes seconds to draw and encode.
            yield await asyncio.to_thread(lambda: _event("result", build_json(result)))
        except StyleclipError as error:
            yield _event("error", problems.describe(error, request_id).model_dump())
        except Exception:
            _log.exception("request %s failed", request_id)
            failure = ServerError("the API failed; its log says why")
            yield _event("error", problems.describe(failure, request_id).model_dump())
    finally:
        task.cancel()


def _event(name: str, data: dict[str, Any]) -> bytes:
    return format_sse_event(event=name, data_str=json.dumps(data))
