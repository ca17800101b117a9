"""What is served and whether it works: /v1/domain, /v1/errors, /healthz, /livez."""

from __future__ import annotations

from dataclasses import asdict

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse

from styleclip_contract.errors import StyleclipError
from styleclip_server.api import problems
from styleclip_server.api.web import openapi, schemas
from styleclip_server.api.web.state import State, request_id

router = APIRouter(tags=["server"])


@router.get("/v1/domain", **openapi.domain)
async def domain(state: State) -> schemas.DomainAnswer:
    """What the server's generator draws, its presets and the limits of a request."""
    served = await state.domain()
    return schemas.DomainAnswer(
        name=served.name,
        title=served.title,
        resolution=served.resolution,
        align=served.align,
        num_latents=served.num_latents,
        fidelities=list(served.fidelities),
        default_fidelity=served.default_fidelity,
        license=served.license,
        defaults=schemas.Defaults(
            neutral=served.neutral, strength=served.strength, threshold=served.threshold
        ),
        presets=[
            schemas.PresetAnswer(title=preset.title, **asdict(preset.edit))
            for preset in served.presets
        ],
        directions=[schemas.DirectionAnswer(**asdict(each)) for each in served.directions],
        limits=schemas.Limits(body_bytes=state.settings.body_limit),
    )


@router.get("/v1/errors", **openapi.errors)
async def errors() -> list[problems.ErrorKind]:
    """All kinds of problems: their names, status and what to do."""
    return problems.kinds()


@router.get("/healthz", response_model=schemas.Health, **openapi.health)
async def health(request: Request, state: State) -> schemas.Health | Response:
    """Whether the server edits images: a small one is edited, at most every few seconds."""
    try:
        return schemas.Health(seconds=round(await state.health.check(), 1))
    except StyleclipError as error:
        return problems.response(error, request_id(request), status=503)


@router.get("/", include_in_schema=False)
async def root() -> RedirectResponse:
    """Lead a browser to the documentation."""
    return RedirectResponse("/docs")


@router.get("/livez", include_in_schema=False)
async def live() -> Response:
    """Respond; the launcher restarts a process that does not."""
    return Response()
