"""The body of an HTTP request, read and decompressed in bounded memory and time."""

from __future__ import annotations

import asyncio
import zlib
from contextlib import suppress

from grpc import StatusCode
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope

from styleclip_server.api.refusals import Refused, busy, invalid, too_large
from styleclip_server.api.tasks import within

SECONDS = 60.0  # for a body to arrive
DISCARD_SECONDS = 2.0
LARGE_BYTES = 2**20
LARGE_BODIES = 16  # of more than LARGE_BYTES, that arrive at a time
_STEP = 2**20  # bytes that are decompressed per event-loop iteration

_GZIP, _ZLIB = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS
WINDOWS = {b"gzip": _GZIP, b"deflate": _ZLIB}


class RequestBody:
    """The messages of a request, as ASGI's `receive`.

    Attributes:
        ended: whether all of the body was received.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        names = (b"content-length", b"transfer-encoding")
        self.ended = not any(name in names for name, _ in scope["headers"])

    async def __call__(self) -> Message:
        """Return the next message."""
        message = await self._receive()
        self.ended = not message.get("more_body")
        return message

    async def discard_rest(self) -> None:
        """Receive the rest of a refused body for a moment.

        A connection that is closed with bytes unread is reset, which may take the response with it.
        """
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._discard(), DISCARD_SECONDS)

    async def _discard(self) -> None:
        while not self.ended:
            await self()


class BodyReader:
    """Reads bodies of at most `limit` bytes, as they come and decompressed."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._large = 0

    async def read(self, scope: Scope, receive: Receive, limit: int | None = None) -> bytes:
        """Return the body of a request.

        Raises:
            Refused: it is too large, too slow, or not compressed as its header says.
            ClientDisconnect: the client has disconnected.
        """
        limit = self.limit if limit is None else limit
        headers = {name: value for name, value in scope["headers"] if name.startswith(b"content-")}
        if int(headers.get(b"content-length", b"0")) > limit:
            raise too_large(limit)
        try:
            body = await within(SECONDS, self._receive(receive, limit))
        except asyncio.TimeoutError:
            raise Refused(
                StatusCode.DEADLINE_EXCEEDED,
                f"the body did not arrive within {SECONDS:g} s",
                http_status=408,
            ) from None
        encoding = headers.get(b"content-encoding", b"identity").lower()
        if encoding == b"identity":
            return body
        if encoding not in WINDOWS:
            raise invalid("Content-Encoding is neither gzip nor deflate", http_status=415)
        return await _decompress(body, WINDOWS[encoding], limit)

    async def _receive(self, receive: Receive, limit: int) -> bytes:
        chunks: list[bytes] = []
        size, large = 0, False
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                chunk = message.get("body", b"")
                chunks.append(chunk)
                size += len(chunk)
                if size > limit:
                    raise too_large(limit)
                if not message.get("more_body"):
                    return chunks[0] if len(chunks) == 1 else b"".join(chunks)
                if size > LARGE_BYTES and not large:
                    if self._large == LARGE_BODIES:
                        raise busy()
                    large = True
                    self._large += 1
        finally:
            self._large -= large


async def _decompress(body: bytes, window: int, limit: int) -> bytes:
    decoder = zlib.decompressobj(window)
    parts: list[bytes] = []
    size, rest = 0, body
    try:
        while rest and not decoder.eof:
            parts.append(decoder.decompress(rest, _STEP))
            size += len(parts[-1])
            if size > limit:
                raise too_large(limit)
            rest = decoder.unconsumed_tail
            if rest:
                await asyncio.sleep(0)
        if not decoder.eof or decoder.unused_data:
            raise zlib.error("the end is missing, or more follows")
    except zlib.error as error:
        raise invalid(f"the body is not compressed as its Content-Encoding says: {error}") from None
    return b"".join(parts)
