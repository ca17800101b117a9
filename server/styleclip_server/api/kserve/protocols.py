"""KServe's protocol over HTTP and gRPC, with one connection to Triton and one bound for both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import httpx
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send

from styleclip_server.api.access import Access
from styleclip_server.api.http_body import BodyReader
from styleclip_server.api.kserve.abandoned_regions import close_abandoned_regions
from styleclip_server.api.kserve.grpc_proxy import GrpcProxy, running_proxy
from styleclip_server.api.kserve.http_proxy import HttpProxy
from styleclip_server.api.kserve.triton import Triton
from styleclip_server.api.settings import Settings
from styleclip_server.api.tasks import running_in_background


@asynccontextmanager
async def running_protocols(
    settings: Settings, access: Access, triton: Triton, bodies: BodyReader
) -> AsyncIterator[HttpProxy]:
    """Serve gRPC during a `with` block; yield the application of the paths under /v2."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    proxy = GrpcProxy(
        triton,
        access,
        allow_shared_memory=settings.allow_shared_memory,
        body_limit=settings.body_limit,
    )
    address = f"{host}:{settings.grpc_port}"
    closing_regions = (
        running_in_background(close_abandoned_regions(triton))
        if settings.allow_shared_memory
        else nullcontext()
    )
    async with (
        httpx.AsyncClient(base_url=f"http://{settings.triton_http}", trust_env=False) as calls,
        running_proxy(proxy, address, settings),
        closing_regions,
    ):
        yield HttpProxy(
            triton, calls, allow_shared_memory=settings.allow_shared_memory, bodies=bodies
        )


class KServeMiddleware:
    """ASGI middleware: `app.state.kserve` responds to the paths under /v2."""

    def __init__(self, app: FastAPI) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Respond to a request, or pass it on."""
        path: bytes = scope.get("raw_path", b"")
        if scope["type"] == "http" and (path == b"/v2" or path.startswith(b"/v2/")):
            await self._app.state.kserve(scope, receive, send)
        else:
            await self._app(scope, receive, send)
