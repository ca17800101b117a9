"""Requests over HTTP, by httpx, for threads and for asyncio.

tritonclient has two HTTP clients: one is bound to its thread and needs gevent, the other needs
aiohttp, and neither takes a time-out per call.
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
from styleclip_client.failures import CallFailed
from styleclip_client.protocol import AdminRequest, Request, check_outputs
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
    """Sends requests over a pool of connections, from any number of threads."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = httpx.Client(**_options(connection))

    def send(self, request: Request, timeout: float) -> Any:
        """Return the response to `request` within `timeout` seconds, or raise CallFailed."""
        deadline = time.monotonic() + timeout
        prepared = self._client.build_request(**_prepare(self._connection, request, timeout))
        body = bytearray()
        try:
            response = self._client.send(prepared, stream=True)
            try:
                for chunk in response.iter_bytes():
                    _append(body, chunk, deadline)
            finally:
                response.close()
        except httpx.HTTPError as error:
            raise _call_failed(error) from error
        return _decode(request, response, bytes(body))

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


class AsyncHttpTransport:
    """Sends requests over a pool of connections, from one event loop."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._client = httpx.AsyncClient(**_options(connection))

    async def send(self, request: Request, timeout: float) -> Any:
        """Return the response to `request` within `timeout` seconds, or raise CallFailed."""
        deadline = time.monotonic() + timeout
        prepared = self._client.build_request(**_prepare(self._connection, request, timeout))
        body = bytearray()
        try:
            response = await self._client.send(prepared, stream=True)
            try:
                async for chunk in response.aiter_bytes():
                    _append(body, chunk, deadline)
            finally:
                await asyncio.shield(response.aclose())
        except httpx.HTTPError as error:
            raise _call_failed(error) from error
        return _decode(request, response, bytes(body))

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _options(connection: Connection) -> dict[str, Any]:
    verify: ssl.SSLContext | bool = True
    if connection.address.tls:
        verify = ssl.create_default_context(cafile=connection.ca)
        if connection.certificate is not None:
            verify.load_cert_chain(connection.certificate, connection.key)
    # By default Triton should not spend time on compressing images, which are compressed.
    headers = {"Accept-Encoding": connection.compression or "identity", **connection.headers}
    return {
        "base_url": f"{connection.address}/",
        "headers": headers,
        "verify": verify,
        # A proxy of the environment cannot reach this machine's loopback.
        "trust_env": not connection.address.loopback,
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=32),
    }


def _prepare(connection: Connection, request: Request, timeout: float) -> dict[str, Any]:
    """Return the arguments of httpx's `build_request`."""
    if isinstance(request, AdminRequest):
        arguments = {"method": request.verb, "url": request.path, "timeout": timeout}
        if request.verb == "POST":  # the name is in the path
            arguments["json"] = {k: v for k, v in request.arguments.items() if k != "name"}
        return arguments
    headers, body = http_body.encode(request, connection.request_id(request.id))
    if connection.compression:
        headers["Content-Encoding"] = connection.compression
        body = zlib.compress(body) if connection.compression == "deflate" else gzip.compress(body)
    return {
        "method": "POST",
        "url": f"v2/models/{request.model.name}/infer",
        "content": body,
        "headers": headers,
        "timeout": timeout,
    }


def _append(body: bytearray, chunk: bytes, deadline: float) -> None:
    """Add `chunk` to `body`, unless the response is late or too large."""
    if time.monotonic() > deadline:
        raise CallFailed("DEADLINE_EXCEEDED", "the response did not end in time")
    if len(body) + len(chunk) > limits.RESPONSE_BYTES:
        raise CallFailed("INTERNAL", f"the response has more than {limits.RESPONSE_BYTES} bytes")
    body += chunk


def _decode(request: Request, response: httpx.Response, body: bytes) -> Any:
    if (
        isinstance(request, AdminRequest)
        and request.is_boolean
        and response.status_code in (200, 400)
    ):
        return response.status_code == 200
    if response.status_code != 200:
        code = _CODES.get(response.status_code, "INTERNAL")
        raise CallFailed(code, _message(body) or f"HTTP status {response.status_code}")
    if isinstance(request, AdminRequest):
        try:
            return json.loads(body or b"{}")
        except ValueError as error:
            raise CallFailed("INTERNAL", f"the response of {request.path} is not JSON") from error
    tensors = http_body.decode(request, body, response.headers.get(http_body.JSON_LENGTH))
    return check_outputs(request.model, dict(tensors))


def _message(body: bytes) -> str:
    """Return the error message: of Triton's JSON, or the text of a gateway."""
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode(errors="replace").strip()


def _call_failed(error: httpx.HTTPError) -> CallFailed:
    late = isinstance(error, httpx.TimeoutException)
    return CallFailed("DEADLINE_EXCEEDED" if late else "UNAVAILABLE", str(error))
