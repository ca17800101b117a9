"""POST /v1/edit and POST /v1/invert: photos or latents in, images or latents out."""

from __future__ import annotations

import base64
import functools
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from styleclip_client import AsyncClient, faces
from styleclip_client.parallel_calls import in_order_async
from styleclip_client.recipe import Recipe
from styleclip_client.results import Edited, Inverted
from styleclip_contract import limits
from styleclip_contract.domain import Domain
from styleclip_contract.edit_fields import EditFields
from styleclip_contract.edits import Edit
from styleclip_contract.errors import EditsMismatch, InvalidInput, StyleclipError
from styleclip_server.api import archives, events, forms, negotiation, openapi, problems, schemas
from styleclip_server.api.disconnects import cancel_on_disconnect
from styleclip_server.api.schemas import EditRequest, File, InvertRequest
from styleclip_server.api.state import call_in_thread, get_state, request_id

router = APIRouter(tags=["edit"])

LATENT_TYPE = "application/octet-stream"
_CONCURRENCY = 4  # photos of one request that are edited at a time

Report = Callable[[int, int], None]  # of how many are done, of how many


@dataclass(frozen=True)
class Result:
    """An image of a response, or why there is none; `name` is that of its photo."""

    name: str
    edited: Edited | StyleclipError


@router.post("/v1/edit", **openapi.edit)
async def edit(request: Request) -> Response:
    """Edit the face in a photo, or a latent, and return the image.

    Several photos, or all faces of one, give several images: as a ZIP archive, multipart/mixed or
    JSON. A photo that fails does not stop the others. With `Accept: text/event-stream` the response
    reports progress and ends with an event `result`, which has the JSON response.
    """
    api = get_state(request)
    fields = await forms.read(request, EditRequest, api.bodies)
    check_photos(fields)
    several = len(fields.photo) > 1 or (fields.face == "all" and not fields.paste)
    images = [] if several else negotiation.image_types(fields.format)
    offers = [*images, negotiation.ZIP, negotiation.MIXED, negotiation.JSON, negotiation.EVENTS]
    media_type = negotiation.choose(request.headers.get("accept"), offers)
    format = negotiation.FORMATS.get(media_type) or normalize_format(fields.format)
    client = api.client_for(request)

    async def work(report: Report) -> list[Result]:
        edits = resolve_edits(fields, await api.domain())
        with api.admitted(min(_CONCURRENCY, len(fields.photo))) as concurrency:
            return await edit_all(client, fields, edits, format, concurrency, report)

    identifier = request_id(request)
    if media_type == negotiation.EVENTS:
        return events.stream(
            work, lambda results: build_json(results, format, identifier), identifier
        )
    results = await cancel_on_disconnect(work(lambda done, total: None), request.receive)
    failures = [each.edited for each in results if isinstance(each.edited, StyleclipError)]
    if len(failures) == len(results):
        raise failures[0]
    if media_type == negotiation.JSON:
        return JSONResponse(build_json(results, format, identifier))
    if media_type in (negotiation.ZIP, negotiation.MIXED):
        return archives.pack(media_type, results, format, identifier)
    edited = results[0].edited
    assert isinstance(edited, Edited)
    return Response(
        edited.picture,
        media_type=media_type,
        headers={
            "Content-Disposition": f'inline; filename="edited{limits.SUFFIX_BY_FORMAT[format]}"',
            "X-Channels": ", ".join(map(str, edited.channels)),
        },
    )


def check_photos(fields: schemas.EditableRequest) -> None:
    """Check that there is a photo or a latent, and no option that does not fit.

    Raises:
        InvalidInput: there is none, or too much.
    """
    paste = isinstance(fields, EditRequest) and fields.paste
    if not fields.photo and not fields.latent:
        raise InvalidInput("there is no photo: send the field photo, or latent")
    if not fields.latent:
        return
    if fields.photo and not (paste and len(fields.photo) == 1):
        raise InvalidInput("send a photo or a latent; both only to paste one face into one photo")
    set_fields = {"align": fields.align != "auto", "face": fields.face != -1}
    if not fields.photo:
        set_fields["paste"] = paste
    if names := [name for name, is_set in set_fields.items() if is_set]:
        raise InvalidInput(f"these fields need the photo, not a latent: {', '.join(names)}")


def resolve_edits(fields: schemas.EditableRequest, domain: Domain) -> list[Edit]:
    """Return the edits of a request, completed with the domain's defaults.

    Raises:
        InvalidInput: there is none, or one is not accepted.
    """
    values = EditFields(
        fields.target,
        fields.neutral,
        fields.strength,
        fields.threshold,
        fields.preset,
        fields.direction,
    )
    if fields.recipe:
        if any(vars(values).values()):
            raise EditsMismatch("recipe stands alone: it says all of the edits")
        edits = list(Recipe.from_json(fields.recipe).edits)
        if not edits:
            raise InvalidInput("all edits of the recipe are switched off")
        return edits
    if not (fields.target or fields.preset or fields.direction):
        raise InvalidInput("say what to change: send the field target, preset, direction or recipe")
    return values.resolve(domain)


def normalize_format(format: str | None) -> str:
    """Return the name of an image format as the server knows it."""
    return negotiation.FORMATS[negotiation.image_types(format)[0]]


async def edit_all(
    client: AsyncClient,
    fields: EditRequest,
    edits: list[Edit],
    format: str,
    concurrency: int,
    report: Report,
) -> list[Result]:
    """Edit the latent or each photo of a request."""
    output: dict[str, Any] = {"format": format, "quality": fields.quality, "mark": fields.mark}
    if fields.latent:
        inverted = Inverted.from_bytes(fields.latent.data)
        if not fields.photo:
            return [Result("latent", await client.edit(inverted.w_plus, edits, **output))]
        photo = fields.photo[0]
        edited = await client.paste(photo.data, inverted, edits, keep_gps=fields.keep_gps, **output)
        return [Result(output_name(photo, 0), edited)]
    call = _edit_call(client, fields, edits, output)
    results: list[Result] = []
    index = 0
    calls = (functools.partial(call, photo.data) for photo in fields.photo)
    async with aclosing(in_order_async(calls, concurrency)) as outcomes:
        async for outcome in outcomes:
            results += _results(output_name(fields.photo[index], index), outcome)
            index += 1
            report(index, len(fields.photo))
    return results


def _edit_call(
    client: AsyncClient, fields: EditRequest, edits: list[Edit], output: dict[str, Any]
) -> Callable[[bytes], Awaitable[Edited | list[Edited]]]:
    """Return what edits one photo into one image or several."""
    output = {**output, "align": fields.aligns, "keep_gps": fields.keep_gps}
    if fields.face == "all":
        function: Callable[..., Any] = faces.edit_together if fields.paste else faces.edit_each
        return lambda photo: call_in_thread(function, client, photo, edits, **output)
    return functools.partial(
        client.edit_photo, edits=edits, face=fields.face, paste=fields.paste, **output
    )


def _results(name: str, outcome: Any) -> list[Result]:
    if isinstance(outcome, list):
        return [Result(f"{name}-{face}", edited) for face, edited in enumerate(outcome)]
    if isinstance(outcome, (Edited, StyleclipError)):
        return [Result(name, outcome)]
    raise outcome


def output_name(photo: File, index: int) -> str:
    """Return the name for the image of a photo: its file's without folder and suffix."""
    name = PurePath(photo.name.replace("\\", "/")).stem
    safe = "".join(c if c.isalnum() or c in "-_ ." else "_" for c in name)[:80].strip(" .")
    return safe or f"photo-{index + 1}"


def build_json(results: list[Result], format: str, request_id: str) -> dict[str, Any]:
    """Return the JSON response; images are base64 texts."""
    return schemas.EditAnswer(
        images=[_json_image(each, format, request_id) for each in results]
    ).model_dump(exclude_none=True)


def _json_image(result: Result, format: str, request_id: str) -> schemas.EditedImage:
    if isinstance(result.edited, StyleclipError):
        problem = problems.describe(result.edited, request_id).model_dump()
        return schemas.EditedImage(name=result.name, problem=problem)
    return schemas.EditedImage(
        name=result.name,
        media_type=negotiation.IMAGES[format],
        image=base64.b64encode(result.edited.picture).decode(),
        channels=result.edited.channels,
    )


@router.post("/v1/invert", **openapi.invert)
async def invert(request: Request) -> Response:
    """Invert the face in a photo: the latent (.npz) serves any number of fast edits."""
    api = get_state(request)
    fields = await forms.read(request, InvertRequest, api.bodies)
    photo = one_photo(fields.photo)
    media_type = negotiation.choose(request.headers.get("accept"), [LATENT_TYPE])
    with api.admitted():
        inverted = await cancel_on_disconnect(
            api.client_for(request).invert(photo.data, align=fields.aligns, face=fields.face),
            request.receive,
        )
    return Response(
        inverted.to_bytes(),
        media_type=media_type,
        headers={"Content-Disposition": f'attachment; filename="{output_name(photo, 0)}.npz"'},
    )


def one_photo(photos: list[File]) -> File:
    """Return the only photo.

    Raises:
        InvalidInput: there is none, or several.
    """
    if len(photos) != 1:
        raise InvalidInput(f"{len(photos)} photos; one is expected in the field photo")
    return photos[0]
