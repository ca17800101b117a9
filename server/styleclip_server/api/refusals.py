"""Requests that the API server refuses, with one status for both protocols."""

from __future__ import annotations

from grpc import StatusCode

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


class Refused(Exception):
    """A request that is not passed on, or that Triton refused.

    Attributes:
        code: gRPC's status.
        message: what the client is told.
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


def invalid(message: str) -> Refused:
    """Return the refusal of a request that violates the protocol or the model's interface."""
    return Refused(StatusCode.INVALID_ARGUMENT, message)
