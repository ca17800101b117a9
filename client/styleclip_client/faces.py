"""Edits of all clear faces of one photo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from styleclip_client.client import Client
from styleclip_client.images import Photo, photo_bytes
from styleclip_client.results import Edited, Face, Inverted
from styleclip_contract import limits
from styleclip_contract.edits import Edit
from styleclip_contract.errors import NoFaceFound

ALL = -2  # in place of a face's index: all clear faces
CLEAR_SCORE = 0.3  # what the detector scores lower may be no face
_T = TypeVar("_T")

# Called with the index of a face that is not edited, since its score is too low, and with the face.
ReportUnclear = Callable[[int, Face], None]


def edit_each(
    client: Client,
    photo: Photo,
    edits: Edit | Sequence[Edit],
    *,
    align: bool | None = None,
    format: str = limits.DEFAULT_FORMAT,
    quality: int = limits.DEFAULT_QUALITY,
    mark: bool = True,
    keep_gps: bool = False,
    fidelity: str | None = None,
    report_unclear: ReportUnclear = lambda index, face: None,
) -> list[Edited]:
    """Edit each clear face of `photo` into an image of its own, best first.

    Other parameters are those of `Client.edit_photo`.

    Raises:
        NoFaceFound: no face is clear.
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
            fidelity=fidelity,
        )

    return _for_each_face(client, data, edit_face, align, report_unclear)


def edit_together(
    client: Client,
    photo: Photo,
    edits: Edit | Sequence[Edit],
    *,
    align: bool | None = None,
    format: str = limits.DEFAULT_FORMAT,
    quality: int = limits.DEFAULT_QUALITY,
    mark: bool = True,
    keep_gps: bool = False,
    fidelity: str | None = None,
    report_unclear: ReportUnclear = lambda index, face: None,
) -> Edited:
    """Edit all clear faces of `photo` into one image.

    All faces are inverted before the first one is pasted. Other parameters are those of
    `Client.edit_photo`.

    Raises:
        NoFaceFound: no face is clear.
    """
    data, align = photo_bytes(photo), _resolve_align(client, align)
    inversions: list[Inverted] = _for_each_face(
        client,
        data,
        lambda face: client.invert(data, align=align, face=face, fidelity=fidelity),
        align,
        report_unclear,
    )
    channels: list[int] = []
    # Intermediate images should be lossless, but a large photo as PNG may be too large to send.
    between = ("PNG", 95) if format.upper() == "PNG" else ("JPEG", 100)
    for index, inverted in enumerate(inversions, 1):
        name, level = (format, quality) if index == len(inversions) else between
        edited = client.paste(
            data,
            inverted,
            edits,
            format=name,
            quality=level,
            mark=mark,
            keep_gps=keep_gps,
            fidelity=fidelity,
        )
        data, channels = edited.picture, edited.channels
    return Edited(data, channels)


def _resolve_align(client: Client, align: bool | None) -> bool:
    return client.domain().align if align is None else align


def _for_each_face(
    client: Client,
    photo: bytes,
    call: Callable[[int], _T],
    align: bool,
    report_unclear: ReportUnclear,
) -> list[_T]:
    """Return the results of `call` for each clear face; a crop that is not aligned has one."""
    if not align:
        return [call(0)]
    detected = client.faces(photo)
    clear = [index for index, face in enumerate(detected) if face.score >= CLEAR_SCORE]
    if detected and not clear:
        scores = ", ".join(f"face {index}: {face.score:.2f}" for index, face in enumerate(detected))
        raise NoFaceFound(
            f"no face is clear: a score of {CLEAR_SCORE} is expected ({scores}); name a face by "
            "its number to edit it"
        )
    for index, face in enumerate(detected):
        if face.score < CLEAR_SCORE:
            report_unclear(index, face)
    return [call(index) for index in clear or (0,)]  # without any, the server says what to try
