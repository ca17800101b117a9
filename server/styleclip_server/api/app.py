"""The application: one place where the endpoints and what guards them are put together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline

from styleclip_server.api.settings import Settings

_HOP_BY_HOP = {"connection", "content-length", "host", "keep-alive", "transfer-encoding"}


def create_app(settings: Settings) -> FastAPI:
    """Return the front door's application."""

    @asynccontextmanager
    async def connect(app: FastAPI) -> AsyncIterator[None]:
        async with httpx.AsyncClient(
            base_url=f"http://{settings.triton_http}",
            headers={"accept-encoding": "identity"},  # unless the client accepts another
            timeout=None,
            trust_env=False,
        ) as triton:
            app.state.triton = triton
            yield

    # Assets of the documentation are served from here, so that it works without the Internet.
    app = FastAPIOffline(title="StyleCLIP", redoc_url=None, lifespan=connect)

    @app.get("/livez", include_in_schema=False)
    async def live() -> Response:
        """The door's process answers."""
        return Response()

    @app.api_route("/v2", methods=["GET", "POST"], include_in_schema=False)
    @app.api_route("/v2/{path:path}", methods=["GET", "POST"], include_in_schema=False)
    async def forward(request: Request) -> Response:
        return await _forward(app.state.triton, request)

    return app


async def _forward(triton: httpx.AsyncClient, request: Request) -> Response:
    """Pass a request of KServe's protocol on to Triton."""
    headers = [(name, value) for name, value in request.headers.items() if _passes(name)]
    answer = await triton.send(
        triton.build_request(
            request.method,
            request.scope["raw_path"].decode(),
            params=request.query_params,
            headers=headers,
            content=await request.body(),
        ),
        stream=True,
    )
    try:
        content = b"".join([chunk async for chunk in answer.aiter_raw()])
    finally:
        await answer.aclose()
    passed = {name: value for name, value in answer.headers.items() if _passes(name)}
    return Response(content, answer.status_code, passed)


def _passes(name: str) -> bool:
    return name not in _HOP_BY_HOP
