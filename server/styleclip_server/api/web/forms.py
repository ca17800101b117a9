"""Reads a request: a form with files, or JSON; its size is bounded while it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from styleclip_contract import limits
from styleclip_contract.errors import InvalidInput, ServerBusy, from_wire
from styleclip_server.api.http_body import BodyReader
from styleclip_server.api.problems import RequestTooLarge, RequestTooSlow, UnsupportedMediaType
from styleclip_server.api.refusals import Refused
from styleclip_server.api.web import schemas
from styleclip_server.api.web.schemas import File, RequestModel

_PIECE = 2**16  # bytes of a form that are parsed per event-loop iteration
_ERRORS: dict[int, type[Exception]] = {
    408: RequestTooSlow,
    415: UnsupportedMediaType,
    503: ServerBusy,
}
_FILES = limits.PHOTOS + 1  # and a latent
_TEXTS = 6 * limits.EDITS + 32
_FILE_FIELDS = ("photo", "latent")
_NON_EMPTY_FIELDS = ("target", "neutral")  # refused if empty; other empty texts are left out

F = TypeVar("F", bound=RequestModel)


async def read(request: Request, model: type[F], bodies: BodyReader) -> F:
    """Read the fields of a request.

    Raises:
        InvalidInput, ServerBusy, RequestError: they are not accepted; the message says why.
        ClientDisconnect: the client has disconnected.
    """
    body = await _read_body(request, bodies)
    content_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if content_type == "multipart/form-data":
            if not body.rstrip().endswith(b"--"):  # the parser would leave out the last part
                raise InvalidInput("the form has no end: send all of it")
            return await _read_form(Request(request.scope, _Replay(body)), model)
        if content_type == "application/json":
            return model.model_validate_json(body)
    except ValidationError as error:
        raise InvalidInput(_explain(error, model)) from error
    raise UnsupportedMediaType(
        f"the body's type is {content_type[:100]!r}: send a form with files "
        "(curl -F photo=@me.jpg …), or application/json"
    )


async def _read_body(request: Request, bodies: BodyReader) -> bytes:
    try:
        return await bodies.read(request.scope, request.receive)
    except Refused as refused:
        if refused.http_status == 413:
            raise from_wire(refused.message) from refused
        raise _ERRORS.get(refused.http_status, InvalidInput)(refused.message) from refused


class _Replay:
    """Receives a body that was read, in pieces: parsing one takes a moment."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._start = 0

    async def __call__(self) -> Message:
        await asyncio.sleep(0)
        start, self._start = self._start, self._start + _PIECE
        piece = self._body[start : self._start]
        return {"type": "http.request", "body": piece, "more_body": self._start < len(self._body)}


async def _read_form(request: Request, model: type[F]) -> F:
    try:
        form = await request.form(
            max_files=_FILES, max_fields=_TEXTS, max_part_size=limits.RECIPE_BYTES
        )
    except HTTPException as error:  # Starlette's of a form that it cannot read
        if error.detail.startswith("Too many"):
            raise RequestTooLarge(error.detail) from error
        raise InvalidInput(f"the form cannot be read: {error.detail}") from error
    try:
        values = {name: await _read_values(name, form.getlist(name)) for name in form}
    finally:
        await form.close()
    fields = model.fields_by_name()
    return model.model_validate(
        {
            name: _list_or_single(name, given, fields.get(name))
            for name, given in values.items()
            if given
        }
    )


async def _read_values(name: str, parts: Sequence[UploadFile | str]) -> list[File | str]:
    """Return the values of a field, without the empty inputs of an HTML form."""
    values = [
        await _read_file(name, part) if isinstance(part, UploadFile) else _read_text(name, part)
        for part in parts
    ]
    return [value for value in values if value is not None]


async def _read_file(name: str, upload: UploadFile) -> File | None:
    if name not in _FILE_FIELDS:
        raise InvalidInput(f"{name[:50]} is a file, a text is expected")
    if not (upload.filename or upload.size):
        return None
    return File(upload.filename or "", await upload.read())


def _read_text(name: str, text: str) -> str | None:
    if not text and name not in _NON_EMPTY_FIELDS:
        return None
    if name in _FILE_FIELDS:
        raise InvalidInput(
            f"{name} is a text, a file is expected: curl needs {name}=@FILE, with an @"
        )
    return text


def _list_or_single(name: str, values: list[File | str], field: FieldInfo | None) -> object:
    """Return the values of a field that is repeatable or unknown, or else its only value."""
    if field is None or schemas.is_repeatable(field):
        return values
    if len(values) > 1:
        raise InvalidInput(f"{name} is given {len(values)} times; once is expected")
    return values[0]


def _explain(error: ValidationError, model: type[RequestModel]) -> str:
    """Return one line that says what is wrong with which fields."""
    reasons = []
    for entry in error.errors(include_url=False, include_context=False, include_input=False)[:5]:
        place = ".".join(str(part)[:50] for part in entry["loc"])
        if entry["type"] == "extra_forbidden":
            known = ", ".join(model.fields_by_name())
            reasons.append(f"there is no field {place!r}; there are {known}")
        else:
            reasons.append(f"{place}: {entry['msg']}" if place else entry["msg"])
    return "; ".join(reasons)
