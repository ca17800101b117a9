"""POST /v1/faces: the faces that the server finds in a photo."""

from __future__ import annotations

from fastapi import APIRouter, Request

from styleclip_server.api.tasks import cancel_on_disconnect
from styleclip_server.api.web import forms, openapi, schemas
from styleclip_server.api.web.fields import one_photo
from styleclip_server.api.web.state import State

router = APIRouter(tags=["edit"])


@router.post("/v1/faces", **openapi.faces)
async def faces(request: Request, state: State) -> schemas.FacesAnswer:
    """List the faces in a photo, best first; `face` takes their numbers."""
    fields = await forms.read(request, schemas.FacesRequest, state.bodies)
    photo = one_photo(fields.photo)
    with state.admitted():
        detected = await cancel_on_disconnect(
            state.client_for(request).faces(photo.data), request.receive
        )
    return schemas.FacesAnswer(faces=schemas.face_answers(dict(enumerate(detected))))
