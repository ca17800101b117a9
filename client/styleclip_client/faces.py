"""Several faces of one photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from styleclip_client.client import Client
from styleclip_client.images import Photo, photo_bytes
from styleclip_client.results import Edited, Inverted
from styleclip_contract.edits import Edit
from styleclip_contract.errors import FaceIndexOutOfRange

ALL = -2  # in place of a face's number
_T = TypeVar("_T")


def edit_each(
    client: Client,
    photo: Photo,
    edits: Edit | Sequence[Edit],
    *,
    align: bool | None = None,
    format: str = "JPEG",
    quality: int = 95,
    mark: bool = True,
    keep_gps: bool = False,
) -> list[Edited]:
    """Each face of `photo` as a picture of its own, best first."""
    data, align = photo_bytes(photo), _aligned(client, align)

    def edited(face: int) -> Edited:
        return client.edit_photo(
            data,
            edits,
            align=align,
            face=face,
            format=format,
            quality=quality,
            mark=mark,
            keep_gps=keep_gps,
        )

    return _each(edited, align)


def edit_together(
    client: Client,
    photo: Photo,
    edits: Edit | Sequence[Edit],
    *,
    align: bool | None = None,
    format: str = "JPEG",
    quality: int = 95,
    mark: bool = True,
    keep_gps: bool = False,
) -> Edited:
    """`photo` with all its faces edited: they are found before the first is changed."""
    data, align = photo_bytes(photo), _aligned(client, align)
    found: list[Inverted] = _each(lambda face: client.invert(data, align=align, face=face), align)
    channels: list[int] = []
    # In between nothing may be lost, but a large photo as PNG can be too large to send.
    between = ("PNG", 95) if format.upper() == "PNG" else ("JPEG", 100)
    for index, inverted in enumerate(found, 1):
        name, level = (format, quality) if index == len(found) else between
        edited = client.paste(
            data, inverted, edits, format=name, quality=level, mark=mark, keep_gps=keep_gps
        )
        data, channels = edited.picture, edited.channels
    return Edited(data, channels)


def _aligned(client: Client, align: bool | None) -> bool:
    return client.domain().align if align is None else align


def _each(call: Callable[[int], _T], align: bool) -> list[_T]:
    """What `call` gives for each face, whose number only the server knows."""
    answers: list[_T] = []
    while True:
        try:
            answers.append(call(len(answers)))
        except FaceIndexOutOfRange:
            if not answers:
                raise
            return answers
        if not align:  # a crop is one face, whatever its number
            return answers
