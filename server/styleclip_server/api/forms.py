"""Reads a request: a form with files, or JSON; its size is bounded while it is read."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message

from styleclip_contract import limits
from styleclip_contract.errors import ImageTooLarge, InvalidInput, ServerBusy
from styleclip_server.api.http_body import BodyReader
from styleclip_server.api.problems import RequestTooLarge, RequestTooSlow, UnsupportedMediaType
from styleclip_server.api.refusals import Refused
from styleclip_server.api.schemas import File, RequestModel

_PIECE = 2**16  # bytes of a form that are parsed per event-loop iteration
_ERRORS: dict[int, type[Exception]] = {
    408: RequestTooSlow,
    413: ImageTooLarge,
    415: UnsupportedMediaType,
    503: ServerBusy,
}
_FILES = limits.PHOTOS + 1  # and a latent
_TEXTS = 6 * limits.EDITS + 32
_FILE_FIELDS = ("photo", "latent")
_TEXT_FIELDS = ("target", "neutral")  # an empty one is an error

F = TypeVar("F", bound=RequestModel)


async def read(request: Request, model: type[F], reader: BodyReader) -> F:
    """Read the fields of a request.

    Raises:
        InvalidInput, ServerBusy, RequestError: they are not accepted; the message says why.
        ClientDisconnect: the client has disconnected.
    """
    body = await _read_body(request, reader)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "multipart/form-data":
            if not body.rstrip().endswith(b"--"):  # the parser would leave out the last part
                raise InvalidInput("the form has no end: send all of it")
            return await _read_form(Request(request.scope, _Replay(body)), model)
        if kind == "application/json":
            return model.model_validate_json(body)
    except ValidationError as error:
        raise InvalidInput(_explain(error, model)) from error
    raise UnsupportedMediaType(
        f"the body's type is {kind[:100]!r}: send a form with files (curl -F photo=@me.jpg …), or "
        "application/json"
    )


async def _read_body(request: Request, reader: BodyReader) -> bytes:
    try:
        return await reader.read(request.scope, request.receive)
    except Refused as refused:
        error = _ERRORS.get(refused.http_status, InvalidInput)
        raise error(refused.message.removeprefix("ImageTooLarge: ")) from refused


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
    fields = {field.alias or name: field for name, field in model.model_fields.items()}
    try:
        values = {name: await _value(name, form, fields.get(name)) for name in form}
    finally:
        await form.close()
    return model.model_validate({name: value for name, value in values.items() if value != []})


async def _value(name: str, form: FormData, field: FieldInfo | None) -> Any:
    """Return the value of a field, or a list if it may be given several times."""
    values: list[str | File] = []
    for value in form.getlist(name):
        if isinstance(value, UploadFile):
            if name not in _FILE_FIELDS:
                raise InvalidInput(f"{name[:50]} is a file, a text is expected")
            if value.filename or value.size:  # an empty input of a page is one that is not given
                values.append(File(value.filename or "", await value.read()))
        elif value and name in _FILE_FIELDS:
            raise InvalidInput(
                f"{name} is a text, a file is expected: curl needs {name}=@FILE, with an @"
            )
        elif value or name in _TEXT_FIELDS:
            values.append(value)
    if field is None or _is_list(field):
        return values
    if len(values) > 1:
        raise InvalidInput(f"{name} is given {len(values)} times; once is expected")
    return values[0] if values else []


def _is_list(field: FieldInfo) -> bool:
    return field.default == []


def _explain(error: ValidationError, model: type[RequestModel]) -> str:
    """Return one line that says what is wrong with which fields."""
    reasons = []
    for entry in error.errors(include_url=False, include_context=False, include_input=False)[:5]:
        place = ".".join(str(part)[:50] for part in entry["loc"])
        if entry["type"] == "extra_forbidden":
            known = ", ".join(f.alias or name for name, f in model.model_fields.items())
            reasons.append(f"there is no field {place!r}; there are {known}")
        else:
            reasons.append(f"{place}: {entry['msg']}" if place else entry["msg"])
    return "; ".join(reasons)
