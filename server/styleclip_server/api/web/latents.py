"""POST /v1/invert: a photo in, its latent out."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from styleclip_server.api.admission import RequestClass
from styleclip_server.api.tasks import cancel_on_disconnect
from styleclip_server.api.web import forms, negotiation, openapi
from styleclip_server.api.web.fields import one_photo
from styleclip_server.api.web.results import output_name
from styleclip_server.api.web.schemas import InvertRequest
from styleclip_server.api.web.state import State

router = APIRouter(tags=["edit"])

LATENT_TYPE = "application/octet-stream"


@router.post("/v1/invert", **openapi.invert)
async def invert(request: Request, state: State) -> Response:
    """Invert the face in a photo: the latent (.npz) serves any number of fast edits.

    With the fidelity `features` the file also has the face crop, which those edits need.
    """
    fields = await forms.read(request, InvertRequest, state.bodies)
    photo = one_photo(fields.photo)
    media_type = negotiation.choose(request.headers.get("accept"), [LATENT_TYPE])
    fidelity = (await state.domain()).fidelity(fields.fidelity)
    client = state.client_for(request)
    with state.admitted(request_class=RequestClass.of_size("/v1/invert", len(photo.data))):
        inverted = await cancel_on_disconnect(
            client.invert(photo.data, align=fields.aligns, face=fields.face, fidelity=fidelity),
            request.receive,
        )
    return Response(
        inverted.to_bytes(),
        media_type=media_type,
        headers={"Content-Disposition": f'attachment; filename="{output_name(photo, 0)}.npz"'},
    )
