"""POST /v1/edit: photos or a latent in, images out."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from styleclip_client import AsyncClient, Edited, Face, Inverted, faces
from styleclip_client.parallel_calls import Failure, in_order_async
from styleclip_contract import limits
from styleclip_contract.edits import Edit
from styleclip_contract.errors import StyleclipError
from styleclip_server.api.admission import RequestClass
from styleclip_server.api.tasks import cancel_on_disconnect
from styleclip_server.api.web import archives, events, forms, negotiation, openapi
from styleclip_server.api.web.events import ReportProgress
from styleclip_server.api.web.fields import check_photos, resolve_edits
from styleclip_server.api.web.results import Result, build_json, output_name
from styleclip_server.api.web.schemas import EditRequest, File
from styleclip_server.api.web.state import State, request_id
from styleclip_server.api.web.threads import call_in_thread

router = APIRouter(tags=["edit"])


@dataclass(frozen=True)
class _AllFaces:
    """The edits of all clear faces of a photo, together or each, and the other faces."""

    edited: Edited | list[Edited]
    unclear: Mapping[int, Face]


@router.post("/v1/edit", **openapi.edit)
async def edit(request: Request, state: State) -> Response:
    """Edit the face in a photo, or a latent, and return the image.

    Several photos, or all faces of one, give several images: as a ZIP archive, multipart/mixed or
    JSON. A photo that fails does not stop the others. With `Accept: text/event-stream` the response
    reports progress and ends with an event `result`, which has the JSON response.
    """
    fields = await forms.read(request, EditRequest, state.bodies)
    check_photos(fields)
    media_type, format = _negotiate(request, fields)
    client, identifier = state.client_for(request), request_id(request)

    async def work(report: ReportProgress) -> list[Result]:
        edits = resolve_edits(fields, await state.domain())
        with state.admitted(len(fields.photo), _request_class(fields)) as concurrency:
            return await _edit_all(client, fields, edits, format, concurrency, report)

    if media_type == negotiation.EVENTS:
        return events.stream(
            work, lambda results: build_json(results, format, identifier), identifier
        )
    results = await cancel_on_disconnect(work(events.ignore_progress), request.receive)
    return await asyncio.to_thread(_response, results, media_type, format, identifier)


def _request_class(fields: EditRequest) -> RequestClass | None:
    """Return the class of an edit of one face; None for several, which are as slow as many."""
    if len(fields.photo) > 1 or fields.face == "all":
        return None
    size = len(fields.photo[0].data) if fields.photo else 0
    call = f"/v1/edit latent={fields.latent is not None} {fields.fidelity}"
    return RequestClass.of_size(call, size)


def _negotiate(request: Request, fields: EditRequest) -> tuple[str, str]:
    """Return the media type of the response and the format of its images."""
    types = negotiation.image_types(fields.format)
    several = len(fields.photo) > 1 or (fields.face == "all" and not fields.paste)
    offers = [negotiation.ZIP, negotiation.MIXED, negotiation.JSON, negotiation.EVENTS]
    media_type = negotiation.choose(
        request.headers.get("accept"), offers if several else [*types, *offers]
    )
    return media_type, negotiation.image_format(media_type, types)


def _response(results: list[Result], media_type: str, format: str, request_id: str) -> Response:
    """Return the response with all images.

    Raises:
        StyleclipError: all photos failed; the first one's.
    """
    failures = [each.edited for each in results if isinstance(each.edited, StyleclipError)]
    if len(failures) == len(results):
        raise failures[0]
    if media_type == negotiation.JSON:
        return JSONResponse(build_json(results, format, request_id))
    if media_type in (negotiation.ZIP, negotiation.MIXED):
        return archives.pack(media_type, results, format, request_id)
    edited = results[0].edited
    assert isinstance(edited, Edited)
    headers = {
        "Content-Disposition": f'inline; filename="edited{limits.SUFFIX_BY_FORMAT[format]}"',
        "X-Channels": ", ".join(map(str, edited.channels)),
    }
    if results[0].unclear:
        headers["X-Unclear-Faces"] = ", ".join(map(str, results[0].unclear))
    return Response(edited.picture, media_type=media_type, headers=headers)


async def _edit_all(
    client: AsyncClient,
    fields: EditRequest,
    edits: list[Edit],
    format: str,
    concurrency: int,
    report: ReportProgress,
) -> list[Result]:
    """Edit the latent or each photo of a request."""
    output: dict[str, Any] = {
        "format": format,
        "quality": fields.quality,
        "mark": fields.mark,
        "fidelity": fields.fidelity,
    }
    if fields.latent:
        return [await _edit_latent(client, fields, fields.latent, edits, output)]
    results: list[Result] = []
    calls = (
        functools.partial(_edit_photo, client, fields, photo, edits, output)
        for photo in fields.photo
    )
    async with aclosing(in_order_async(calls, concurrency)) as outcomes:
        for index, photo in enumerate(fields.photo):
            results += _results(output_name(photo, index), await anext(outcomes))
            report(index + 1, len(fields.photo))
    return results


async def _edit_latent(
    client: AsyncClient,
    fields: EditRequest,
    latent: File,
    edits: list[Edit],
    output: dict[str, Any],
) -> Result:
    """Edit a latent; with a photo, paste the face into it."""
    inverted = Inverted.from_bytes(latent.data)
    if not fields.photo:
        return Result("latent", await client.edit(inverted, edits, **output))
    photo = fields.photo[0]
    edited = await client.paste(photo.data, inverted, edits, keep_gps=fields.keep_gps, **output)
    return Result(output_name(photo, 0), edited)


async def _edit_photo(
    client: AsyncClient, fields: EditRequest, photo: File, edits: list[Edit], output: dict[str, Any]
) -> Edited | _AllFaces:
    """Edit one photo into one image, or into several: one for each face."""
    output = {**output, "align": fields.aligns, "keep_gps": fields.keep_gps}
    if fields.face == "all":
        function: Callable[..., Edited | list[Edited]] = (
            faces.edit_together if fields.paste else faces.edit_each
        )
        unclear: dict[int, Face] = {}
        edited = await call_in_thread(
            function, client, photo.data, edits, report_unclear=unclear.__setitem__, **output
        )
        return _AllFaces(edited, unclear)
    return await client.edit_photo(
        photo.data, edits, face=fields.face, paste=fields.paste, **output
    )


def _results(name: str, outcome: Edited | _AllFaces | Failure) -> list[Result]:
    if isinstance(outcome, OSError):
        raise outcome
    if not isinstance(outcome, _AllFaces):
        return [Result(name, outcome)]
    if isinstance(outcome.edited, Edited):
        return [Result(name, outcome.edited, outcome.unclear)]
    return [
        Result(f"{name}-{face}", edited, outcome.unclear)
        for face, edited in enumerate(outcome.edited)
    ]
