"""HTTP connections with bounds on what a client may send, and how long it may occupy a connection.

uvicorn bounds neither the size of a request's head, the number of its chunks, nor the time that a
client takes to send a head or to read a response.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

from starlette.requests import ClientDisconnect
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CONNECTIONS = 1024
HEAD_BYTES = 16 * 2**10
UNPARSED_BYTES = 512 * 2**10  # with a head that has not ended: its own, and a body's before it
HEADERS = 64
HEAD_SECONDS = 10.0  # for the head of a request to arrive
STALL_SECONDS = 60.0  # for a response to be read
# Chunks of a body that cost more than their bytes are worth.
SMALL_CHUNKS = 1000
BYTES_PER_CHUNK = 32

# Given twice, two readers of a request may understand it differently.
_SINGLE = {
    b"authorization",
    b"content-encoding",
    b"content-length",
    b"content-type",
    b"host",
    b"inference-header-content-length",
    b"transfer-encoding",
}


_EXTENSION = "styleclip.disconnect"


@contextmanager
def on_disconnect(scope: Scope, call: Callable[[], None]) -> Iterator[None]:
    """Call a function when the client disconnects during a `with` block, without a task that waits.

    The body must have been received.

    Raises:
        ClientDisconnect: at the end of the block, if the client has disconnected.
    """
    connection: BoundedConnection = scope["extensions"][_EXTENSION]["connection"]
    connection.flow.resume_reading()  # uvicorn pauses it in a large body
    functions = connection.disconnect_functions
    functions.append(call)
    try:
        yield
    finally:
        if call not in functions:
            raise ClientDisconnect
        functions.remove(call)


class LimitExceeded(Exception):
    """The client exceeds a bound; the connection responds with 400 and closes."""


class _JoinedWrites:
    """A transport that sends the head and the body of a response in one packet.

    uvicorn writes them one after the other, and each write wakes the client. The second is sent at
    once, since the rest of the event loop's step takes time; a single one at the step's end.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send `data` after what waits to be sent, or at the end of the event loop's step."""
        self._parts.append(data)
        if len(self._parts) == 1:
            self._loop.call_soon(self._flush)
        else:
            self._flush()

    def close(self) -> None:
        """Close the connection once everything is sent."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts and not self._transport.is_closing():
            self._transport.writelines(parts)


class BoundedConnection(HttpToolsProtocol):
    """One connection; uvicorn's, with bounds."""

    # Connections of this process without a request under way, the oldest first.
    _idle: ClassVar[dict[BoundedConnection, None]] = {}

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._head_bytes = 0
        self._unparsed_bytes = 0
        self._chunks = 0
        self._body_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None
        self._stall_timer: asyncio.TimerHandle | None = None
        self._refusal = ""
        self.disconnect_functions: list[Callable[[], None]] = []

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the time for a request; above CONNECTIONS, close the one that is idle longest."""
        super().connection_made(_JoinedWrites(transport, self.loop))  # type: ignore[arg-type]
        if len(self.connections) > CONNECTIONS:
            oldest = next(iter(self._idle), self)
            oldest._cancel_timers()
            oldest.transport.abort()
        if not transport.is_closing():
            self._wait_for_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timers, and call what waits for it."""
        self._cancel_timers()
        while self.disconnect_functions:
            self.disconnect_functions.pop()()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, and bound a head that does not end: the parser keeps it in memory."""
        super().data_received(data)
        self._unparsed_bytes = self._unparsed_bytes + len(data) if self._head_timer else 0
        if self._unparsed_bytes > UNPARSED_BYTES and not self.transport.is_closing():
            self.send_400_response(f"Refused: more than {HEAD_BYTES} bytes before the body.")

    def on_message_begin(self) -> None:
        """Start the time for the head of a request."""
        super().on_message_begin()
        self.scope["extensions"] = {_EXTENSION: {"connection": self}}
        self._head_bytes = self._chunks = self._body_bytes = 0
        self._wait_for_head()

    def on_url(self, url: bytes) -> None:
        """Count the bytes of the request's target."""
        self._count_head(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count a header and its bytes."""
        self._count_head(len(name) + len(value))
        super().on_header(name, value)
        if len(self.headers) > HEADERS:
            raise self._exceeded(f"more than {HEADERS} headers")

    def on_headers_complete(self) -> None:
        """Stop the time for the head, and refuse what could be understood in two ways."""
        self._stop_head_timer()
        names = [name for name, _ in self.headers if name in _SINGLE]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise self._exceeded(f"the header {name.decode()} is given twice")
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        """Count a chunk of a body."""
        self._chunks += 1
        if self._chunks > SMALL_CHUNKS + self._body_bytes / BYTES_PER_CHUNK:
            raise self._exceeded("too many small chunks")

    def on_body(self, body: bytes) -> None:
        """Count the bytes of a body."""
        self._body_bytes += len(body)
        super().on_body(body)

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        if not self.pipeline and not self.transport.is_closing():
            self._idle[self] = None

    def pause_writing(self) -> None:
        """Start the time for the response to be read."""
        super().pause_writing()
        if self._stall_timer is None:
            self._stall_timer = self.loop.call_later(STALL_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """Stop the time for the response to be read."""
        super().resume_writing()
        if self._stall_timer:
            self._stall_timer.cancel()
            self._stall_timer = None

    def send_400_response(self, msg: str) -> None:
        """Respond with the bound that was exceeded, if that is the reason."""
        super().send_400_response(self._refusal or msg)

    def _wait_for_head(self) -> None:
        self._idle[self] = None
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _stop_head_timer(self) -> None:
        self._idle.pop(self, None)
        if self._head_timer:
            self._head_timer.cancel()
            self._head_timer = None

    def _cancel_timers(self) -> None:
        self._stop_head_timer()
        if self._stall_timer:
            self._stall_timer.cancel()

    def _count_head(self, size: int) -> None:
        self._head_bytes += size
        if self._head_bytes > HEAD_BYTES:
            raise self._exceeded(f"more than {HEAD_BYTES} bytes before the body")

    def _exceeded(self, reason: str) -> LimitExceeded:
        self._refusal = f"Refused: {reason}."
        return LimitExceeded(reason)
