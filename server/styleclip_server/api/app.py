"""The application: the endpoints, and what every request passes first."""

from __future__ import annotations

import importlib.metadata
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
from fastapi import FastAPI, Request, Response
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from styleclip_contract.errors import InvalidInput, ServerError, StyleclipError
from styleclip_server.api import problems
from styleclip_server.api.access import Access
from styleclip_server.api.admission import Admission
from styleclip_server.api.guard import Guard
from styleclip_server.api.health_check import HealthCheck
from styleclip_server.api.http_body import BodyReader
from styleclip_server.api.kserve.protocols import KServeMiddleware, running_protocols
from styleclip_server.api.kserve.triton import Triton
from styleclip_server.api.load import Load
from styleclip_server.api.local_client import LocalClient
from styleclip_server.api.metrics import MetricsApp, MetricsMiddleware
from styleclip_server.api.settings import Settings
from styleclip_server.api.web import edits, faces, latents, openapi, service, sweeps
from styleclip_server.api.web.state import ApiState, request_id
from styleclip_server.cancelled_calls import CancelledCalls


def create_app(settings: Settings, process: int = 0) -> ASGIApp:
    """Return the application of a process of the API server, by its number.

    What every request passes, and KServe's protocol, come before FastAPI, whose layers cost time.
    """
    access = Access(settings.tokens, settings.rate_limit)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with _running_services(app, settings, access, process):
            yield

    # Assets of the documentation are served from here, so that it works without the Internet.
    app = FastAPIOffline(
        title="StyleCLIP",
        version=importlib.metadata.version("styleclip-triton"),
        redoc_url=None,
        generate_unique_id_function=lambda route: route.name,
        lifespan=lifespan,
    )
    openapi.install(app)
    for module in (edits, latents, faces, sweeps, service):
        app.include_router(module.router)

    app.add_exception_handler(StyleclipError, _report)
    app.add_exception_handler(problems.RequestError, _report)
    app.add_exception_handler(HTTPException, _report_http)
    app.add_exception_handler(ClientDisconnect, _drop)
    app.add_exception_handler(Exception, _report_bug)
    guarded = Guard(KServeMiddleware(app), access, settings.log_requests)
    return MetricsMiddleware(guarded, app.state, settings.metrics_port)


@asynccontextmanager
async def _running_services(
    app: FastAPI, settings: Settings, access: Access, process: int
) -> AsyncIterator[None]:
    """Connect to Triton and serve gRPC during a `with` block; `app.state` gets what HTTP needs."""
    load = Load.open(Path(settings.shared_load), process, settings.processes)
    admission = Admission(settings.max_concurrent, settings.highest_concurrent, load=load)
    bodies = BodyReader(settings.body_limit)
    cancelled = CancelledCalls(Path(settings.cancelled_calls))
    async with (
        LocalClient(settings.triton_grpc, cancelled) as client,
        Triton(
            settings.triton_grpc,
            settings.triton_http,
            admission,
            cancelled,
            allow_shared_memory=settings.allow_shared_memory,
        ) as triton,
        running_protocols(settings, access, triton, bodies) as app.state.kserve,
        httpx.AsyncClient(
            base_url=f"http://{settings.triton_metrics}", trust_env=False
        ) as triton_metrics,
    ):
        health = HealthCheck(triton, settings.triton_grpc)
        app.state.api = ApiState(settings, client, admission, bodies, health)
        app.state.metrics = MetricsApp(triton_metrics, load)
        yield


async def _report(request: Request, error: Exception) -> Response:
    assert isinstance(error, (StyleclipError, problems.RequestError))
    return problems.response(error, request_id(request))


async def _report_http(request: Request, error: Exception) -> Response:
    """Report what the web framework refuses."""
    assert isinstance(error, HTTPException)
    path = request.url.path[:200]
    if error.status_code == 404:
        refusal: problems.Error = problems.NoSuchPath(f"there is no {path!r}")
    elif error.status_code == 405:
        refusal = problems.MethodNotAllowed(f"{request.method} is not allowed for {path}")
    else:
        refusal = InvalidInput(error.detail)
    response = problems.response(refusal, request_id(request), error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _drop(request: Request, error: Exception) -> Response:
    """The client has disconnected; the status is for the log only."""
    return Response(status_code=499)


async def _report_bug(request: Request, error: Exception) -> Response:
    """Report an error that has no name; the log has its trace."""
    return problems.response(ServerError("the API failed; its log says why"), request_id(request))
