"""Errors as RFC 9457 problem details: the named error, its remedy and the request's id."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field

from styleclip_contract import errors
from styleclip_contract.errors import StyleclipError
from styleclip_server.api.refusals import RETRY_SECONDS, retry_header

MEDIA_TYPE = "application/problem+json"


class RequestError(Exception):
    """Base class of errors that only HTTP knows."""


class NotAcceptable(RequestError):
    """The server produces no media type that the client accepts."""


class UnsupportedMediaType(RequestError):
    """The request's body is neither a form with files nor JSON."""


class RequestTooLarge(RequestError):
    """The request has more bytes, files or fields than the server accepts."""


class RequestTooSlow(RequestError):
    """The request's body did not arrive in time."""


class NoSuchPath(RequestError):
    """The server has no such path."""


class MethodNotAllowed(RequestError):
    """The path exists, but not with this method."""


Error: TypeAlias = "StyleclipError | RequestError"


class _Entry(NamedTuple):
    status: int
    remedy: str
    meaning: str = ""  # where the class's docstring speaks of the class


# In the order of the documents. A class that is missing has the entry of its base class.
_ENTRIES: dict[type[Exception], _Entry] = {
    errors.InvalidInput: _Entry(
        400,
        "Correct what the detail names; /docs lists the fields.",
        "The request is not accepted.",
    ),
    errors.NotAnImage: _Entry(400, "Send a JPEG, PNG or WebP file."),
    errors.ImageTruncated: _Entry(400, "Send the complete file."),
    errors.ImageTooLarge: _Entry(413, "Make the image smaller."),
    errors.NoFaceFound: _Entry(
        400, "Send a photo that shows a face from the front, or a face crop with align=false."
    ),
    errors.FaceIndexOutOfRange: _Entry(400, "POST /v1/faces lists the faces with their numbers."),
    errors.EmptyText: _Entry(400, "Describe the image in a few words, such as 'a smiling face'."),
    errors.TextTooLong: _Entry(400, "Use a few words; they work best."),
    errors.SameTexts: _Entry(400, "Let the target differ from the neutral text in what to change."),
    errors.InvalidStrength: _Entry(400, "Give a number within the limits of GET /v1/domain."),
    errors.InvalidThreshold: _Entry(400, "Give a number from 0 to 1, usually 0.05 to 0.3."),
    errors.NoChannelLeft: _Entry(400, "Lower the threshold to the value that the detail gives."),
    errors.EditsMismatch: _Entry(
        400, "Give neutral once or per target, strength and threshold once or per edit."
    ),
    errors.InvalidLatent: _Entry(400, "Send a file that POST /v1/invert of this server returned."),
    errors.UnknownFidelity: _Entry(400, "GET /v1/domain lists the fidelities."),
    errors.InvalidCrop: _Entry(400, "Send a file that POST /v1/invert of this server returned."),
    errors.NoEncoder: _Entry(400, "Edit a latent, or use a domain that has an encoder."),
    errors.InvalidSeed: _Entry(400, "Give a seed from 0 to 4294967295, a truncation from 0 to 1."),
    errors.SamplingUnavailable: _Entry(400, "Convert the domain again, then seeds give latents."),
    errors.UnknownFormat: _Entry(400, "Use jpeg, png or webp, and a quality from 1 to 100."),
    errors.UnknownDirection: _Entry(400, "GET /v1/domain lists the directions."),
    errors.UnknownPreset: _Entry(400, "GET /v1/domain lists the presets."),
    errors.InvalidRecipe: _Entry(400, "Send a recipe as the web page saves it."),
    NotAcceptable: _Entry(406, "Accept one of the media types that the detail lists."),
    UnsupportedMediaType: _Entry(415, "Send multipart/form-data or application/json."),
    RequestTooLarge: _Entry(413, "Send fewer or smaller files."),
    RequestTooSlow: _Entry(408, "Send the request again on a faster connection."),
    NoSuchPath: _Entry(404, "/docs lists the paths."),
    MethodNotAllowed: _Entry(405, "/docs lists the methods."),
    errors.AccessRefused: _Entry(401, "Send the header 'Authorization: Bearer TOKEN'."),
    errors.ServerBusy: _Entry(503, "Send the request again after the seconds of Retry-After."),
    errors.ServerUnavailable: _Entry(503, "Send the request again in a few seconds."),
    errors.DeadlineExceeded: _Entry(504, "Send the request again when the server is less busy."),
    errors.LandmarksMissing: _Entry(
        501, "Send face crops with align=false, or install the landmark model on the server."
    ),
    errors.ServerError: _Entry(
        500, "Report it with the request_id; the server's log has the rest."
    ),
}


class Problem(BaseModel):
    """What went wrong, and what to do."""

    type: str = Field(description="Identifies the kind of problem: a path of this server.")
    title: str = Field(description="What the kind of problem means.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What was wrong with this request.")
    name: str = Field(description="The error's name; names are stable.")
    remedy: str = Field(description="What to do.")
    request_id: str = Field(description="The request's id, which the server's log has.")


class ErrorKind(BaseModel):
    """A kind of problem."""

    name: str
    status: int
    title: str
    remedy: str


def kinds() -> list[ErrorKind]:
    """Return every kind of problem."""
    return [_kind(cls) for cls in _ENTRIES]


def _kind(cls: type[Exception]) -> ErrorKind:
    nearest = next(base for base in cls.__mro__ if base in _ENTRIES)
    entry = _ENTRIES[nearest]
    title = (cls is nearest and entry.meaning) or (cls.__doc__ or "").strip()
    return ErrorKind(name=cls.__name__, status=entry.status, title=title, remedy=entry.remedy)


def describe(error: Error, request_id: str, status: int | None = None) -> Problem:
    """Return the problem details of an error; `status` replaces the status of its class."""
    kind = _kind(type(error))
    return Problem(
        type=f"/v1/errors#{kind.name}",
        title=kind.title,
        status=status or kind.status,
        detail=str(error),
        name=kind.name,
        remedy=kind.remedy,
        request_id=request_id,
    )


def response(
    error: Error,
    request_id: str,
    status: int | None = None,
    retry_after: float | None = None,
) -> JSONResponse:
    """Return the response that reports an error."""
    problem = describe(error, request_id, status)
    if retry_after is None and isinstance(error, errors.ServerUnavailable):
        retry_after = RETRY_SECONDS
    headers = retry_header(retry_after)
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="StyleCLIP"'
    return JSONResponse(
        problem.model_dump(), problem.status, media_type=MEDIA_TYPE, headers=headers
    )
