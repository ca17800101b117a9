"""POST /v1/faces: the faces that the server finds in a photo."""

from __future__ import annotations

from fastapi import APIRouter, Request

from styleclip_server.api import forms, openapi, schemas
from styleclip_server.api.disconnects import cancel_on_disconnect
from styleclip_server.api.edits import one_photo
from styleclip_server.api.state import get_state

router = APIRouter(tags=["edit"])


@router.post("/v1/faces", **openapi.faces)
async def faces(request: Request) -> schemas.FacesAnswer:
    """List the faces in a photo, best first; `face` takes their numbers."""
    api = get_state(request)
    fields = await forms.read(request, schemas.FacesRequest, api.bodies)
    photo = one_photo(fields.photo)
    with api.admitted():
        detected = await cancel_on_disconnect(
            api.client_for(request).faces(photo.data), request.receive
        )
    return schemas.FacesAnswer(
        faces=[
            schemas.FaceAnswer(face=index, box=face.box, score=face.score)
            for index, face in enumerate(detected)
        ]
    )
