"""Calls over HTTP, by httpx: one way to say them, sent in two ways.

Not by tritonclient's own HTTP clients, of which one is bound to the thread and needs gevent, the
other is another library, and neither takes a time-out for one call.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import ssl
import time
import zlib
from typing import Any

import httpx

from styleclip_client import http_body
from styleclip_client.address import Connection
from styleclip_client.protocol import Ask, Call, Failed, outputs_of
from styleclip_contract import limits

_CODES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}


class HttpTransport:
    """Sends calls over a pool of connections, from any number of threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = httpx.Client(**_options(connection))

    def send(self, call: Call, timeout: float) -> Any:
        """The answer to `call` within `timeout` seconds; raises Failed."""
        deadline = time.monotonic() + timeout
        request = self._client.build_request(**_prepared(self._connection, call, timeout))
        body = bytearray()
        try:
            response = self._client.send(request, stream=True)
            try:
                for chunk in response.iter_bytes():
                    _take(body, chunk, deadline)
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise _failed(error) from error
        return _decoded(call, response, bytes(body))

    def close(self) -> None:
        self._client.close()


class AsyncHttpTransport:
    """The same within one event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = httpx.AsyncClient(**_options(connection))

    async def send(self, call: Call, timeout: float) -> Any:
        deadline = time.monotonic() + timeout
        request = self._client.build_request(**_prepared(self._connection, call, timeout))
        body = bytearray()
        try:
            response = await self._client.send(request, stream=True)
            try:
                async for chunk in response.aiter_bytes():
                    _take(body, chunk, deadline)
            finally:
                await asyncio.shield(response.aclose())
        except httpx.HTTPError as error:
            raise _failed(error) from error
        return _decoded(call, response, bytes(body))

    async def close(self) -> None:
        await self._client.aclose()


def _options(connection: Connection) -> dict[str, Any]:
    verify: ssl.SSLContext | bool = True
    if connection.address.tls:
        verify = ssl.create_default_context(cafile=connection.ca)
        if connection.certificate is not None:
            verify.load_cert_chain(connection.certificate, connection.key)
    # Unless asked for, Triton should not spend its time on packing pictures that are packed.
    headers = {"Accept-Encoding": connection.compression or "identity", **connection.headers}
    return {
        "base_url": f"{connection.address}/",
        "headers": headers,
        "verify": verify,
        # A proxy of the environment knows nothing of this machine's loopback.
        "trust_env": not connection.address.loopback,
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=32),
    }


def _prepared(connection: Connection, call: Call, timeout: float) -> dict[str, Any]:
    """What httpx builds a request from."""
    if isinstance(call, Ask):
        request = {"method": call.verb, "url": call.path, "timeout": timeout}
        if call.verb == "POST":
            request["json"] = {k: v for k, v in call.arguments.items() if k != "name"}
        return request
    headers, body = http_body.encode(call, connection.request_id(call.id))
    if connection.compression:
        headers["Content-Encoding"] = connection.compression
        body = zlib.compress(body) if connection.compression == "deflate" else gzip.compress(body)
    return {
        "method": "POST",
        "url": f"v2/models/{call.model.name}/infer",
        "content": body,
        "headers": headers,
        "timeout": timeout,
    }


def _take(body: bytearray, chunk: bytes, deadline: float) -> None:
    """Add `chunk`; an answer that trickles or does not end is given up."""
    if time.monotonic() > deadline:
        raise Failed("DEADLINE_EXCEEDED", "the answer did not end in time")
    if len(body) + len(chunk) > limits.ANSWER_BYTES:
        raise Failed("INTERNAL", f"the answer has more than {limits.ANSWER_BYTES} bytes")
    body += chunk


def _decoded(call: Call, response: httpx.Response, body: bytes) -> Any:
    if isinstance(call, Ask) and call.yes_or_no and response.status_code in (200, 400):
        return response.status_code == 200
    if response.status_code != 200:
        code = _CODES.get(response.status_code, "INTERNAL")
        raise Failed(code, _message(body) or f"HTTP status {response.status_code}")
    if isinstance(call, Ask):
        try:
            return json.loads(body or b"{}")
        except ValueError as error:
            raise Failed("INTERNAL", f"{call.path} answered no JSON") from error
    tensors = http_body.decode(call, body, response.headers.get(http_body.JSON_LENGTH))
    return outputs_of(call.model, dict(tensors))


def _message(body: bytes) -> str:
    """What the server says went wrong: Triton's JSON, or the text of a gateway."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace").strip()


def _failed(error: httpx.HTTPError) -> Failed:
    late = isinstance(error, httpx.TimeoutException)
    return Failed("DEADLINE_EXCEEDED" if late else "UNAVAILABLE", str(error))
