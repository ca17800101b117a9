"""The metrics port: Triton's metrics, and those of admission.

Triton's own port keeps every body in memory, and 18 MB of one-byte chunks as 3 GB.
"""

from __future__ import annotations

import httpx
from starlette.datastructures import State
from starlette.types import ASGIApp, Receive, Scope, Send

from styleclip_server.api.load import Load
from styleclip_server.api.refusals import UNAVAILABLE_MESSAGE

_SECONDS = 10.0
_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class MetricsMiddleware:
    """ASGI middleware: `state.metrics` responds to what arrives at `port`."""

    def __init__(self, app: ASGIApp, state: State, port: int) -> None:
        self._app = app
        self._state = state
        self._port = port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request, or pass it on."""
        if scope["type"] == "http" and scope["server"] and scope["server"][1] == self._port:
            await self._state.metrics(scope, receive, send)
        else:
            await self._app(scope, receive, send)


class MetricsApp:
    """An ASGI application with the path /metrics.

    Args:
        triton: a client of Triton's metrics port.
        load: of all processes of the API server.
    """

    def __init__(self, triton: httpx.AsyncClient, load: Load) -> None:
        self._triton = triton
        self._load = load

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to one request."""
        status, content = 404, b"the path is /metrics\n"
        if scope["path"] == "/metrics" and scope["method"] in ("GET", "HEAD"):
            status, content = await self._read()
        headers = [(b"content-type", _TYPE), (b"content-length", str(len(content)).encode())]
        if any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"]):
            headers.append((b"connection", b"close"))  # its body is not read
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _read(self) -> tuple[int, bytes]:
        try:
            response = await self._triton.get("/metrics", timeout=_SECONDS)
        except httpx.HTTPError:
            return 503, f"{UNAVAILABLE_MESSAGE}\n".encode()
        return response.status_code, response.content + self._admission_metrics()

    def _admission_metrics(self) -> bytes:
        load = self._load
        families = (
            ("styleclip_requests_inside", "gauge", "Requests that are running", load.running),
            ("styleclip_requests_limit", "gauge", "Requests that may run", load.limit),
            ("styleclip_requests_admitted_total", "counter", "Requests admitted", load.admitted),
            ("styleclip_requests_busy_total", "counter", "Requests refused", load.refused),
        )
        return "".join(
            f"# HELP {name} {text}\n# TYPE {name} {type}\n{name} {value}\n"
            for name, type, text, value in families
        ).encode()
