"""What every HTTP request passes first: who calls and how often, and an id for the request."""

from __future__ import annotations

import json
import re
import secrets
import time
from datetime import datetime, timezone

from fastapi.responses import JSONResponse, Response
from grpc import StatusCode
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from styleclip_contract.errors import AccessRefused, ServerBusy
from styleclip_server.api import problems
from styleclip_server.api.access import Access
from styleclip_server.api.refusals import Refused, retry_header

_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
_HEADER = b"x-request-id"
# These need no token: probes and browsers request them, and they change nothing.
_PUBLIC = ("/healthz", "/livez", "/docs", "/openapi.json", "/static-offline-docs/")


class Guard:
    """ASGI middleware of the whole application.

    Args:
        log: which requests get a line of JSON on standard output: "failures", "all" or "none".
    """

    def __init__(self, app: ASGIApp, access: Access, log: str) -> None:
        self._app = app
        self._access = access
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on with an id: the client's, if it sent a usable one."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent_headers = dict(scope["headers"])
        sent = sent_headers.get(_HEADER, b"")
        identifier = sent.decode() if _ID.fullmatch(sent) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = identifier
        start, status = time.monotonic(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [(_HEADER, identifier.encode()), (b"x-content-type-options", b"nosniff")]
                message["headers"] = [*message["headers"], *headers]
            await send(message)

        refusal = self._refusal(scope, sent_headers.get(b"authorization"), identifier)
        try:
            await (refusal or self._app)(scope, receive, send_with_id)
        finally:
            self._write_line(scope, identifier, status, time.monotonic() - start)

    def _refusal(
        self, scope: Scope, authorization: bytes | None, identifier: str
    ) -> Response | None:
        """Return the response to a caller that is not allowed to call."""
        path: str = scope["path"]
        if path == "/" or path.startswith(_PUBLIC):
            return None
        address = scope["client"][0] if scope["client"] else ""
        try:
            self._access.check(authorization, address)
        except Refused as refused:
            if path.startswith("/v2"):  # KServe's protocol has its own form of errors
                headers = retry_header(refused.retry_after)
                return JSONResponse({"error": refused.message}, refused.http_status, headers)
            is_unauthenticated = refused.code is StatusCode.UNAUTHENTICATED
            error = (AccessRefused if is_unauthenticated else ServerBusy)(refused.message)
            return problems.response(error, identifier, refused.http_status, refused.retry_after)
        return None

    def _write_line(self, scope: Scope, identifier: str, status: int, seconds: float) -> None:
        """Write a line of JSON for a request, if it is selected."""
        failed = not 0 < status < 400
        if self._log == "none" or (self._log != "all" and not failed):
            return
        entry = {
            "time": datetime.now(timezone.utc).isoformat(timespec="milliseconds"),
            "level": "error" if status >= 500 else "info",
            "request_id": identifier,
            "method": scope["method"],
            "path": scope["path"][:200],
            "status": status or None,  # the client disconnected
            "ms": round(seconds * 1000, 1),
        }
        print(json.dumps(entry), flush=True)
