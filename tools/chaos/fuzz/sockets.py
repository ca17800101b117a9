"""Bytes on a socket, for what no client library sends: broken HTTP and broken frames."""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable, Sequence

from tools.chaos.fuzz.request import Request, damage

SECONDS = 3.0  # for an answer
_POST = b"POST /v2/models/edit/infer HTTP/1.1\r\nHost: a\r\n"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_INFER = b"/inference.GRPCInferenceService/ModelInfer"
_HEADERS, _RST, _SETTINGS, _PING, _WINDOW, _CONTINUATION, _DATA = 1, 3, 4, 6, 8, 9, 0


class Sockets:
    """Draws requests for the ports of HTTP, of gRPC and of the metrics."""

    def __init__(self, http: str, grpc: str, metrics: str, rng: random.Random) -> None:
        self._http, self._grpc, self._metrics, self._rng = http, grpc, metrics, rng
        self._kinds: tuple[Callable[[], Request], ...] = (
            *(self._smuggled, self._chunked, self._flooded_head, self._cut_off, self._slow),
            *(self._pipelined, self._garbage, self._frames, self._frames),
        )

    def draw(self) -> Request:
        """Return the next request."""
        return self._rng.choice(self._kinds)()

    def _smuggled(self) -> Request:
        """Two lengths, or one that is spelled in a way that two readers may understand twice."""
        rng = self._rng
        lengths = (
            b"Content-Length: 4", b"Content-Length: 60", b"Content-Length: +4",
            b"Content-Length: 4, 5",
            b"Content-Length: -1", b"Content-Length: 0x4", b"Content-Length : 4",
            b" Content-Length: 4",
            b"Content-Length: 99999999999999999999", b"Content-Length:\t4\x0b",
            b"Transfer-Encoding: chunked", b"Transfer-Encoding: xchunked",
            b"Transfer-Encoding : chunked",
            b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding:\x0bchunked",
            b"Transfer-Encoding: identity", b"X: a\nTransfer-Encoding: chunked", b"TE: chunked",
        )  # fmt: skip
        head = b"\r\n".join(rng.choices(lengths, k=rng.randrange(1, 4)))
        inner = b"GET /v2/models/edit/config HTTP/1.1\r\nHost: b\r\n\r\n"
        body = rng.choice((b"0\r\n\r\n" + inner, b"4\r\nabcd\r\n0\r\n\r\n" + inner, inner, b"{}"))
        return self._over_http("smuggled", [_POST + head + b"\r\n\r\n" + body])

    def _chunked(self) -> Request:
        rng = self._rng
        head = _POST + b"Transfer-Encoding: chunked\r\n\r\n"
        parts = rng.choice((
            [b"1\r\n \r\n" * 10_000] * rng.choice((1, 1, 1, 20)),
            [b"ffffffffffffffff\r\nx"], [b"1ffffffffffffffff\r\nx"], [b"-1\r\nx\r\n"], [b"g\r\n"],
            [b"1;" + b"a" * 50_000 + b"\r\nx\r\n0\r\n\r\n"], [b"1\nx\n0\n\n"],
            [b"0\r\n" + b"X: a\r\n" * 500],
            [b"%x\r\n" % 2**20 + bytes(2**20) + b"\r\n"] * rng.choice((1, 40)),
            [b"5\r\n{}{}{}\r\n0\r\n\r\n"], [b"0" * 5000 + b"1\r\n"],
        ))  # fmt: skip
        return self._over_http("chunked", [head, *parts, b"0\r\n\r\n"])

    def _flooded_head(self) -> Request:
        rng = self._rng
        head = rng.choice((
            b"GET /v2/" + b"a" * rng.choice((100, 20_000, 10**6)) + b" HTTP/1.1\r\nHost: a\r\n",
            b"GET /v2 HTTP/1.1\r\nHost: a\r\n" + b"X: a\r\n" * rng.choice((60, 200, 100_000)),
            b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: " + b"a" * rng.choice((20_000, 2**21)) + b"\r\n",
            b"GET /v2 HTTP/1.1\r\n" + b"Host: a\r\n" * 3,
            b"GET /v2 HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n",
            b"GET /v2 HTTP/1.1\r\nHost: a\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n",
            b"GET /v2 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n",
            b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n", b"GET  /v2 HTTP/1.1\r\n",
            b"GET /v2 HTTP/9.9\r\n",
            b"GET /v2\0 HTTP/1.1\r\n", b"\xff\xfe /v2 HTTP/1.1\r\n",
            b"GET http://b/v2 HTTP/1.1\r\n",
        ))  # fmt: skip
        return self._over_http("head", [head + rng.choice((b"\r\n", b"\r\n", b""))])

    def _cut_off(self) -> Request:
        """A request of which the client closes its half, or everything, before the end."""
        rng = self._rng
        whole = _POST + b"Content-Length: 1000\r\n\r\n" + b"x" * 1000
        part = whole[: rng.randrange(1, len(whole))]
        return self._over_http("cut off", [part], half_close=True, wait=rng.random() < 0.5)

    def _slow(self) -> Request:
        rng = self._rng
        whole = _POST + b"Content-Length: 20\r\n\r\n" + b"{" * 20
        parts = [whole[i : i + 9] for i in range(0, rng.randrange(20, len(whole)), 9)]
        return self._over_http("slow", parts, pause=0.02)

    def _pipelined(self) -> Request:
        rng = self._rng
        one = rng.choice((b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n",
                          b"GET /v2/models/stats HTTP/1.1\r\nHost: a\r\n\r\n"))  # fmt: skip
        return self._over_http("pipelined", [one * rng.choice((2, 50))], wait=rng.random() < 0.5)

    def _garbage(self) -> Request:
        rng = self._rng
        address = rng.choice((self._http, self._grpc, self._metrics))
        start = rng.choice((b"", PREFACE, _POST, b"POST /metrics HTTP/1.1\r\nHost: a\r\n"))
        return self._over(address, "garbage", [start + rng.randbytes(rng.choice((1, 100, 60_000)))])

    def _frames(self) -> Request:
        """Frames of HTTP/2 to gRPC: well-formed ones at the wrong time, or too many of them."""
        rng = self._rng
        call = frame(_HEADERS, 4, 1, encode_headers())
        data = b"\0" + struct.pack(">I", rng.choice((0, 3, 2**20, 2**31, 2**32 - 1))) + b"abc"
        frames = {
            "settings": frame(_SETTINGS, 0, 0, struct.pack(">HI", rng.randrange(9), 2**31)) * 300,
            "pings": frame(_PING, 0, 0, bytes(8)) * 3000,
            "window of nothing": frame(_WINDOW, 0, 0, bytes(4)) * 10,
            "window overflow": frame(_WINDOW, 0, 0, struct.pack(">I", 2**31 - 1)) * 10,
            "resets": b"".join(
                frame(_HEADERS, 4, i, encode_headers()) + frame(_RST, 0, i, struct.pack(">I", 8))
                for i in range(1, 400, 2)
            ),
            "open streams": b"".join(
                frame(_HEADERS, 4, i, encode_headers()) for i in range(1, 600, 2)
            ),
            "continuations": frame(_HEADERS, 0, 1, b"")
            + frame(_CONTINUATION, 0, 1, b"\x00\x01x" + b"\x7f" + b"y" * 127) * 2000,
            "a huge header": frame(
                _HEADERS, 4, 1, encode_headers() + b"\x00\x01x\x7f\x80\x80\x7f"
            ),
            "a wrong length": call + frame(_DATA, 1, 1, data),
            "an endless message": call
            + frame(_DATA, 0, 1, data)
            + frame(_DATA, 0, 1, bytes(16384)) * 20,
            "a frame beyond the limit": struct.pack(">I", 2**24 - 1)[1:]
            + bytes((_DATA, 0))
            + bytes(70_000),
            "data of no stream": frame(_DATA, 0, 99, b"abc"),
            "stream 0": frame(_HEADERS, 4, 0, encode_headers()),
            "an even stream": frame(_HEADERS, 4, 2, encode_headers()),
            "a method that is no text": frame(_HEADERS, 4, 1, encode_headers(b"/\xc5\xe2/\xff")),
            "padding": frame(_DATA, 8, 1, b"\xff"),
        }  # fmt: skip
        kind = rng.choice(list(frames))
        content = PREFACE + frame(_SETTINGS, 0, 0, b"") + frames[kind]
        if rng.random() < 0.2:
            content = damage(rng, content)
        return self._over(self._grpc, "frames", [content])

    def _over_http(
        self,
        kind: str,
        parts: Sequence[bytes],
        *,
        pause: float = 0,
        half_close: bool = False,
        wait: bool = True,
    ) -> Request:
        address = self._metrics if self._rng.random() < 0.1 else self._http
        return self._over(address, kind, parts, pause=pause, half_close=half_close, wait=wait)

    def _over(
        self,
        address: str,
        kind: str,
        parts: Sequence[bytes],
        *,
        pause: float = 0,
        half_close: bool = False,
        wait: bool = True,
    ) -> Request:
        host, _, port = address.rpartition(":")

        def send() -> str:
            try:
                with socket.create_connection((host, int(port)), SECONDS) as connection:
                    for part in parts:
                        connection.sendall(part)
                        time.sleep(pause)
                    # Otherwise the server rightly waits for the rest of what it did not get.
                    connection.settimeout(0.3 if not half_close else SECONDS)
                    if half_close:
                        connection.shutdown(socket.SHUT_WR)
                    return _outcome(connection.recv(4096)) if wait else "not waited for"
            except ConnectionRefusedError:
                return "no server"
            except OSError as error:
                return "no answer" if isinstance(error, TimeoutError) else "closed"

        return Request(kind, send)


def _outcome(answer: bytes) -> str:
    if answer.startswith(b"HTTP/1.1 "):
        return f"HTTP {answer[9:12].decode(errors='replace')}"
    return "frames" if answer else "closed"


def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
    """Return a frame of HTTP/2."""
    head = struct.pack(">I", len(content))[1:] + bytes((kind, flags)) + struct.pack(">I", stream)
    return head + content


def encode_headers(path: bytes = _INFER) -> bytes:
    """HPACK without compression: literals that are not indexed."""
    fields = (
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", path), (b":authority", b"a"),
        (b"content-type", b"application/grpc"), (b"te", b"trailers"),
    )  # fmt: skip
    return b"".join(
        b"\x00" + bytes((len(name),)) + name + bytes((len(value),)) + value
        for name, value in fields
    )
