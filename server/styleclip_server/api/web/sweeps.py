"""POST /v1/sweep: one edit at many strengths, as a sheet, an animation or single images."""

from __future__ import annotations

import asyncio
import base64
import io
from contextlib import aclosing
from dataclasses import dataclass

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from PIL import Image

from styleclip_client import AsyncClient, Inverted, sweeps
from styleclip_contract import limits
from styleclip_contract.domain import Domain
from styleclip_contract.edits import Edit
from styleclip_contract.errors import InvalidInput, InvalidStrength, NoChannelLeft
from styleclip_server.api.tasks import cancel_on_disconnect
from styleclip_server.api.web import archives, events, forms, negotiation, openapi, schemas
from styleclip_server.api.web.events import ReportProgress
from styleclip_server.api.web.fields import check_photos, one_photo, resolve_edits
from styleclip_server.api.web.schemas import SweepRequest
from styleclip_server.api.web.state import State, request_id

router = APIRouter(tags=["edit"])

_FORMATS = ("PNG", "JPEG", "WEBP", "GIF")  # a sheet has texts, so PNG is preferred


@dataclass(frozen=True)
class Sweep:
    """A drawn sweep; an image is None where β leaves no channel to change."""

    grid: sweeps.Grid
    images: list[Image.Image | None]

    @property
    def frames(self) -> list[Image.Image]:
        return [image for image in self.images if image is not None]


@router.post("/v1/sweep", **openapi.sweep)
async def sweep(request: Request, state: State) -> Response:
    """Draw one edit at many strengths; of several edits the last one is swept.

    The response is a strip, a grid with `thresholds`, an animation (GIF), or a ZIP archive of the
    images. With `Accept: text/event-stream` it reports progress and ends with an event `result`,
    which has the JSON response.
    """
    fields = await forms.read(request, SweepRequest, state.bodies)
    check_photos(fields)
    if fields.photo:
        one_photo(fields.photo)
    types = negotiation.image_types(fields.format, _FORMATS)
    if fields.thresholds and not fields.format:
        types.remove(negotiation.IMAGES["GIF"])
    offers = [*types, negotiation.ZIP, negotiation.JSON, negotiation.EVENTS]
    media_type = negotiation.choose(request.headers.get("accept"), offers)
    format = negotiation.image_format(media_type, types)
    client, identifier = state.client_for(request), request_id(request)

    async def work(report: ReportProgress) -> Sweep:
        domain = await state.domain()
        edits = resolve_edits(fields, domain)
        grid = _grid(fields, edits[-1], format, domain)
        # The images of an archive are PNG and stand alone.
        grid.check(_size(fields, format), "PNG" if media_type == negotiation.ZIP else format)
        with state.admitted(len(grid.values)) as concurrency:
            return await _draw(client, fields, edits, grid, concurrency, report)

    if media_type == negotiation.EVENTS:
        return events.stream(work, lambda drawn: _build_json(drawn, fields, format), identifier)
    drawn = await cancel_on_disconnect(work(events.ignore_progress), request.receive)
    if media_type == negotiation.JSON:
        return JSONResponse(await asyncio.to_thread(_build_json, drawn, fields, format))
    if media_type == negotiation.ZIP:
        return Response(
            await asyncio.to_thread(_zip, drawn),
            media_type=media_type,
            headers={"Content-Disposition": 'attachment; filename="sweep.zip"'},
        )
    return Response(await asyncio.to_thread(_encode, drawn, fields, format), media_type=media_type)


def _grid(fields: SweepRequest, edit: Edit, format: str, domain: Domain) -> sweeps.Grid:
    """Return the strengths and thresholds to draw.

    Raises:
        InvalidInput: they are out of bounds, or a GIF has thresholds.
    """
    for name, value in (("from", fields.low), ("to", fields.high)):
        if value is not None and not abs(value) <= limits.STRENGTH:
            raise InvalidStrength(
                f"{name} is {value:g}; a number from {-limits.STRENGTH:g} to "
                f"{limits.STRENGTH:g} is expected"
            )
    if format == "GIF" and fields.thresholds:
        raise InvalidInput("a GIF has no rows: thresholds needs the format png, jpeg or webp")
    steps = fields.steps or _defaults(format).steps
    return sweeps.Grid.for_edit(edit, fields.low, fields.high, steps, fields.thresholds, domain)


def _defaults(format: str) -> sweeps.Defaults:
    return sweeps.GIF_DEFAULTS if format == "GIF" else sweeps.SHEET_DEFAULTS


def _size(fields: SweepRequest, format: str) -> int:
    return fields.size or _defaults(format).size


async def _draw(
    client: AsyncClient,
    fields: SweepRequest,
    edits: list[Edit],
    grid: sweeps.Grid,
    concurrency: int,
    report: ReportProgress,
) -> Sweep:
    """Invert the photo, unless there is a latent, and draw each image."""
    if fields.latent:
        inverted = Inverted.from_bytes(fields.latent.data)
    else:
        photo = one_photo(fields.photo)
        inverted = await client.invert(
            photo.data, align=fields.aligns, face=fields.face, fidelity=fields.fidelity
        )
    images: list[Image.Image | None] = []
    drawn = sweeps.draw_async(
        client, inverted, edits, grid.values, fidelity=fields.fidelity, concurrency=concurrency
    )
    async with aclosing(drawn):
        async for image in drawn:
            images.append(image)
            report(len(images), len(grid.values))
    result = Sweep(grid, images)
    if not result.frames:
        raise NoChannelLeft("these thresholds leave nothing to change: give lower ones")
    return result


def _encode(drawn: Sweep, fields: SweepRequest, format: str) -> bytes:
    size = _size(fields, format)
    if format == "GIF":
        return sweeps.encode_gif(drawn.frames, fields.delay, size)
    return drawn.grid.encode(drawn.images, size, format)


def _build_json(drawn: Sweep, fields: SweepRequest, format: str) -> dict[str, object]:
    values = zip(drawn.grid.values, drawn.images, strict=True)
    return schemas.SweepAnswer(
        media_type=negotiation.IMAGES[format],
        image=base64.b64encode(_encode(drawn, fields, format)).decode(),
        strengths=drawn.grid.strengths,
        thresholds=drawn.grid.thresholds,
        nothing_left=[value for value, image in values if image is None],
    ).model_dump()


def _zip(drawn: Sweep) -> bytes:
    files: dict[str, bytes] = {}
    for (strength, threshold), image in zip(drawn.grid.values, drawn.images, strict=True):
        if image is not None:
            buffer = io.BytesIO()
            image.save(buffer, "PNG")
            number = len(files) + 1
            name = f"{number:03}-strength-{strength:g}-threshold-{threshold:g}.png"
            files[name] = buffer.getvalue()
    return archives.zip_files(files)
