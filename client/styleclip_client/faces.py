"""Edits of all faces of one photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from styleclip_client.client import Client
from styleclip_client.images import Photo, photo_bytes
from styleclip_client.results import Edited, Inverted
from styleclip_contract.edits import Edit
from styleclip_contract.errors import FaceIndexOutOfRange

ALL = -2  # in place of a face's index: all faces
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
    """Edit each face of `photo` into an image of its own, best first.

    Parameters are those of `Client.edit_photo`.
    """
    data, align = photo_bytes(photo), _resolve_align(client, align)

    def edit_face(face: int) -> Edited:
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

    return _for_each_face(edit_face, align)


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
    """Edit all faces of `photo` into one image.

    All faces are inverted before the first one is pasted. Parameters are those of
    `Client.edit_photo`.
    """
    data, align = photo_bytes(photo), _resolve_align(client, align)
    inversions: list[Inverted] = _for_each_face(
        lambda face: client.invert(data, align=align, face=face), align
    )
    channels: list[int] = []
    # Intermediate images should be lossless, but a large photo as PNG may be too large to send.
    between = ("PNG", 95) if format.upper() == "PNG" else ("JPEG", 100)
    for index, inverted in enumerate(inversions, 1):
        name, level = (format, quality) if index == len(inversions) else between
        edited = client.paste(
            data, inverted, edits, format=name, quality=level, mark=mark, keep_gps=keep_gps
        )
        data, channels = edited.picture, edited.channels
    return Edited(data, channels)


def _resolve_align(client: Client, align: bool | None) -> bool:
    return client.domain().align if align is None else align


def _for_each_face(call: Callable[[int], _T], align: bool) -> list[_T]:
    """Return the results of `call` for each face; only the server knows how many there are."""
    results: list[_T] = []
    while True:
        try:
            results.append(call(len(results)))
        except FaceIndexOutOfRange:
            if not results:
                raise
            return results
        if not align:  # a crop has one face, whatever its index
            return results
