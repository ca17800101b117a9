"""Requests that the API server refuses, with one status for both protocols."""

from __future__ import annotations

import math

from grpc import StatusCode

from styleclip_contract.errors import ImageTooLarge

# As Triton maps them.
HTTP_STATUS = {
    StatusCode.INVALID_ARGUMENT: 400,
    StatusCode.UNAUTHENTICATED: 401,
    StatusCode.PERMISSION_DENIED: 403,
    StatusCode.NOT_FOUND: 404,
    StatusCode.ALREADY_EXISTS: 409,
    StatusCode.RESOURCE_EXHAUSTED: 429,
    StatusCode.CANCELLED: 499,
    StatusCode.UNIMPLEMENTED: 501,
    StatusCode.UNAVAILABLE: 503,
    StatusCode.DEADLINE_EXCEEDED: 504,
}
RETRY_SECONDS = 1.0
UNAVAILABLE_MESSAGE = "the inference server is starting or stopping: try again later"


class Refused(Exception):
    """A request that is not passed on, or that Triton refused.

    Attributes:
        code: gRPC's status.
        message: the message to the client.
        retry_after: seconds after which the same request may succeed; None: it will not.
        http_status: the status over HTTP, where another than that of `code` is exact.
    """

    def __init__(
        self,
        code: StatusCode,
        message: str,
        *,
        retry_after: float | None = None,
        http_status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after = retry_after
        self.http_status = http_status or HTTP_STATUS.get(code, 500)


def retry_header(seconds: float | None) -> dict[str, str]:
    """Return the header Retry-After, in whole seconds and never too early; empty for None."""
    return {} if seconds is None else {"Retry-After": str(max(1, math.ceil(seconds)))}


def invalid(message: str, *, http_status: int | None = None) -> Refused:
    """Return the refusal of a request that violates the protocol or the model's interface."""
    return Refused(StatusCode.INVALID_ARGUMENT, message, http_status=http_status)


def too_large(limit: int) -> Refused:
    """Return the refusal of a request with more than `limit` bytes."""
    error = ImageTooLarge(
        f"the request has more than the {limit / 2**20:g} MiB that the server accepts: "
        "make the image smaller"
    )
    return invalid(error.to_wire(), http_status=413)


def restricted(what: str) -> Refused:
    """Return the refusal of a call that Triton would carry out for a trusted caller only."""
    return Refused(StatusCode.PERMISSION_DENIED, f"This {what} is restricted")


def model_control() -> Refused:
    """Return the refusal of a call that loads or unloads a model."""
    return Refused(StatusCode.PERMISSION_DENIED, "explicit model load / unload is not allowed")


def busy() -> Refused:
    """Return the refusal of a request for which the server has no capacity."""
    # Clients know it by "queue size", as Triton's and the gateway's.
    message = "the queue size of the server is reached: try again later"
    return Refused(StatusCode.UNAVAILABLE, message, retry_after=RETRY_SECONDS)


def unavailable() -> Refused:
    """Return the refusal of a request while Triton cannot be reached."""
    return Refused(StatusCode.UNAVAILABLE, UNAVAILABLE_MESSAGE, retry_after=RETRY_SECONDS)
