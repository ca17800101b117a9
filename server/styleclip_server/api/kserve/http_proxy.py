"""KServe's protocol over HTTP, with Triton's extensions: the part that this server offers.

An inference request goes on to Triton as gRPC, or as HTTP that is written here, so that what
clients write never reaches Triton's own parsers of HTTP and JSON. The other calls go on as requests
that are written here.
"""

from __future__ import annotations

import asyncio
import re
import zlib
from functools import partial
from typing import Any

import httpx
import orjson
from grpc import StatusCode
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from styleclip_server.api.http_body import WINDOWS, BodyReader, RequestBody
from styleclip_server.api.http_connections import on_disconnect
from styleclip_server.api.kserve import regions
from styleclip_server.api.kserve.json_messages import (
    HEADER_LENGTH,
    decode_request,
    parse_json,
)
from styleclip_server.api.kserve.triton import (
    CALL_BYTES,
    CALL_SECONDS,
    MODEL_NAME,
    TRACE_HEADERS,
    Triton,
)
from styleclip_server.api.refusals import (
    Refused,
    invalid,
    model_control,
    restricted,
    retry_header,
    unavailable,
)
from styleclip_server.cancelled_calls import new_number

Headers = list[tuple[bytes, bytes]]
HttpResponse = tuple[int, bytes, Headers]

COMPRESSED_BYTES = 1024  # a smaller response is not compressed
_MODEL = rf"/v2/models/(?P<model>{MODEL_NAME})(?:/versions/(?P<version>[0-9]{{1,9}}))?"
_INFER = re.compile(f"{_MODEL}/infer")
_READ = re.compile(
    r"/v2(?:/health/(?:live|ready)|/models/stats|/systemsharedmemory(?:/region/[^/]+)?/status)?"
    f"|{_MODEL}(?:/ready|/config|/stats)?"
)
_INDEX = "/v2/repository/index"
_REGION = re.compile(
    r"/v2/systemsharedmemory(?:/region/(?P<name>[^/]+))?/(?P<action>register|unregister|status)"
)
_RESTRICTED = re.compile(
    r"/v2/(?:logging|trace/setting|models/[^/]+/trace/setting|(?:system|cuda)sharedmemory/.*)"
)
_MODEL_CONTROL = re.compile(r"/v2/repository/models/[^/]+/(?:load|unload)")
_METADATA = re.compile(rb"[\x20-\x7e]{1,512}")  # what gRPC accepts as a value
_TRACE_HEADERS = tuple(name.encode() for name in TRACE_HEADERS)
_JSON = (b"content-type", b"application/json")


class HttpProxy:
    """An ASGI application for the paths under /v2.

    Args:
        triton: the connection for inference.
        calls: a client of Triton's HTTP port, for everything else.
        bodies: reads the bodies of requests.
    """

    def __init__(
        self,
        triton: Triton,
        calls: httpx.AsyncClient,
        *,
        allow_shared_memory: bool,
        bodies: BodyReader,
    ) -> None:
        self._triton = triton
        self._calls = calls
        self._allow_shared_memory = allow_shared_memory
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        body = RequestBody(scope, receive)
        try:
            status, content, headers = await self._respond(scope, body)
        except Refused as error:
            status, content, headers = _refusal(error)
        except ClientDisconnect:
            return
        except Exception:
            bug = Refused(StatusCode.INTERNAL, "the API failed; its log says why")
            await _send(send, *_refusal(bug), body)
            raise
        await _send(send, status, content, headers, body)

    async def _respond(self, scope: Scope, receive: Receive) -> HttpResponse:
        method, path = scope["method"], scope["raw_path"].decode("ascii", "replace")
        if match := _INFER.fullmatch(path):
            _check_method(method, "POST")
            return await self._infer(match, scope, receive)
        if _MODEL_CONTROL.fullmatch(path):
            raise model_control()
        if path == _INDEX:
            _check_method(method, "POST")
            body = await self._bodies.read(scope, receive, CALL_BYTES)
            ready = bool(parse_json(body).get("ready")) if body.strip() else False
            return await self._pass_on("POST", path, {"ready": ready})
        if match := _REGION.fullmatch(path):
            return await self._region(match, method, scope, receive)
        if _RESTRICTED.fullmatch(path):
            raise restricted("API")
        if _READ.fullmatch(path):
            _check_method(method, "GET")
            return await self._pass_on("GET", path)
        raise Refused(StatusCode.NOT_FOUND, f"there is no {path[:200]!r}")

    async def _infer(self, match: re.Match[str], scope: Scope, receive: Receive) -> HttpResponse:
        headers = dict(scope["headers"])
        body = await self._bodies.read(scope, receive)
        self._triton.admission.refuse_if_full()
        request, binary = decode_request(
            match["model"], match["version"] or "", body, headers.get(HEADER_LENGTH)
        )
        del body
        trace = [
            (name.decode(), value.decode())
            for name, value in scope["headers"]
            if name in _TRACE_HEADERS and _METADATA.fullmatch(value)
        ]
        number = new_number()
        with on_disconnect(scope, partial(self._triton.cancelled.add, number)):
            content, header_length = await self._triton.infer_async(request, binary, number, trace)
        if header_length is None:
            response_headers = [_JSON]
        else:
            response_headers = [
                (b"content-type", b"application/octet-stream"),
                (HEADER_LENGTH, str(header_length).encode()),
            ]
        return 200, *await _compress(
            content, response_headers, headers.get(b"accept-encoding", b"")
        )

    async def _region(
        self, match: re.Match[str], method: str, scope: Scope, receive: Receive
    ) -> HttpResponse:
        """Carry out a call about shared memory."""
        name, action = match["name"], match["action"]
        if not self._allow_shared_memory:
            raise restricted("API")
        if name is not None and not regions.is_name(name):
            raise invalid(f"{name[:100]!r} is not the name of a region")
        _check_method(method, "GET" if action == "status" else "POST")
        path = scope["raw_path"].decode("ascii")
        if action != "register" or name is None:
            return await self._pass_on(method, path, None if method == "GET" else {})
        entry = parse_json(await self._bodies.read(scope, receive, CALL_BYTES))
        key, offset, size = entry.get("key"), entry.get("offset", 0), entry.get("byte_size")
        if not isinstance(key, str) or type(offset) is not int or type(size) is not int:
            raise invalid("a region has 'key' (a string), 'offset' and 'byte_size' (numbers)")
        regions.check_registration(name, key, offset, size)
        return await self._pass_on("POST", path, {"key": key, "offset": offset, "byte_size": size})

    async def _pass_on(self, method: str, path: str, entry: Any = None) -> HttpResponse:
        """Send a call that is written here to Triton's HTTP port."""
        content = None if entry is None else orjson.dumps(entry)
        try:
            response = await self._calls.request(
                method, path, content=content, timeout=CALL_SECONDS
            )
        except httpx.HTTPError as error:
            raise unavailable() from error
        content_type = response.headers.get("content-type", "application/json")
        return response.status_code, response.content, [(b"content-type", content_type.encode())]


def _check_method(method: str, expected: str) -> None:
    if method != expected:
        raise Refused(
            StatusCode.UNIMPLEMENTED, f"the method is {method}, not {expected}", http_status=405
        )


async def _compress(content: bytes, headers: Headers, accepted: bytes) -> tuple[bytes, Headers]:
    """Compress a response where the client accepts it."""
    encodings = {each.strip().lower() for each in accepted.split(b",")}
    encoding = next((name for name in (b"gzip", b"deflate") if name in encodings), None)
    if encoding is None or len(content) < COMPRESSED_BYTES:
        return content, headers
    encoder = zlib.compressobj(1, wbits=WINDOWS[encoding])
    compressed = await asyncio.to_thread(encoder.compress, content)
    return compressed + encoder.flush(), [*headers, (b"content-encoding", encoding)]


def _refusal(refusal: Refused) -> HttpResponse:
    retry = retry_header(refusal.retry_after)
    headers = [(name.lower().encode(), value.encode()) for name, value in retry.items()]
    content = orjson.dumps({"error": refusal.message})
    return refusal.http_status, content, [_JSON, *headers]


async def _send(
    send: Send, status: int, content: bytes, headers: Headers, body: RequestBody
) -> None:
    headers = [*headers, (b"content-length", str(len(content)).encode())]
    if not body.ended and status != 200:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if (b"connection", b"close") in headers:
        await send({"type": "http.response.body", "body": content, "more_body": True})
        await body.discard_rest()
        content = b""
    await send({"type": "http.response.body", "body": content})
