"""The results of POST /v1/edit, and the JSON that describes them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from styleclip_client import Edited, Face
from styleclip_contract.errors import StyleclipError
from styleclip_server.api import problems
from styleclip_server.api.web import negotiation, schemas
from styleclip_server.api.web.schemas import File


@dataclass(frozen=True)
class Result:
    """An image of a response, or why there is none.

    Attributes:
        name: its photo's.
        unclear: faces of the photo that face=all left out, by their index.
    """

    name: str
    edited: Edited | StyleclipError
    unclear: Mapping[int, Face] = field(default_factory=dict)


def output_name(photo: File, index: int) -> str:
    """Return the name for the image of a photo: its file's without folder and suffix.

    Args:
        index: the photo's, for a name if its file has none.
    """
    name = PurePath(photo.name.replace("\\", "/")).stem
    safe = "".join(c if c.isalnum() or c in "-_ ." else "_" for c in name)[:80].strip(" .")
    return safe or f"photo-{index + 1}"


def build_json(results: list[Result], format: str, request_id: str) -> dict[str, Any]:
    """Return the JSON response; images are base64."""
    return schemas.EditAnswer(
        images=[_describe(each, format, request_id) for each in results]
    ).model_dump(exclude_none=True)


def _describe(result: Result, format: str, request_id: str) -> schemas.EditedImage:
    if isinstance(result.edited, StyleclipError):
        problem = problems.describe(result.edited, request_id).model_dump()
        return schemas.EditedImage(name=result.name, problem=problem)
    return schemas.EditedImage(
        name=result.name,
        media_type=negotiation.IMAGES[format],
        image=base64.b64encode(result.edited.picture).decode(),
        channels=result.edited.channels,
        unclear=schemas.face_answers(result.unclear),
    )
