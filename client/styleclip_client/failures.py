"""Failed calls: which may be retried, and the named error that the caller gets for each."""

from __future__ import annotations

import re
from typing import NamedTuple

from styleclip_contract.errors import (
    AccessRefused,
    DeadlineExceeded,
    InvalidInput,
    InvalidLatent,
    ServerBusy,
    ServerError,
    ServerUnavailable,
    StyleclipError,
    from_wire,
)


class _Rule(NamedTuple):
    """A failure by its gRPC status and its message; `transient` if the same call may succeed soon.

    An empty `codes` or `pattern` matches everything.
    """

    codes: tuple[str, ...]
    pattern: str
    error: type[StyleclipError]
    text: str
    transient: bool = False


_BUSY = "the server has too many requests waiting: try again later"
_STARTING = "{url} is starting or stopping: try again later"
_UNKNOWN_MODEL = "{url} does not serve a model that this needs ({message}): see `styleclip status`"

# The first rule that matches counts. The patterns are Triton's and gRPC's own messages.
_RULES = (
    # The API server gives PERMISSION_DENIED; a Triton that is started by hand gives UNAVAILABLE.
    _Rule((), "(protocol|API) is restricted", AccessRefused,
          "{url} does not allow this call ({message})"),
    _Rule(("DEADLINE_EXCEEDED",), "", DeadlineExceeded,
          "no answer from {url} within {timeout:g} s: raise the time-out, "
          "or see with `styleclip status` whether the server is busy"),
    # The process of a Python step died; Triton restarts it.
    _Rule((), "Stub process.*not healthy", ServerUnavailable,
          "a part of {url} died and is being restarted: try again later", True),
    # gRPC has one code for a busy server and for a message over the size limit.
    _Rule(("RESOURCE_EXHAUSTED",), "larger than max", ServerError, "{message}"),
    _Rule(("RESOURCE_EXHAUSTED",), "", ServerBusy, _BUSY, True),
    _Rule((), "queue size|timeout expired", ServerBusy, _BUSY, True),
    # Triton may answer a request a moment before it releases the shared memory.
    _Rule((), "shared memory region .* currently in use", ServerBusy, _BUSY, True),
    # Triton's message for a model that is being loaded or unloaded, and gRPC's code for a call
    # that a stopping server dropped: this client cancels none that it waits for.
    _Rule((), "has no available versions", ServerUnavailable, _STARTING, True),
    _Rule(("CANCELLED",), "", ServerUnavailable, _STARTING, True),
    _Rule(("UNAVAILABLE",), "unknown model", ServerUnavailable, _UNKNOWN_MODEL, True),
    _Rule((), "unknown model", ServerUnavailable, _UNKNOWN_MODEL),
    _Rule(("NOT_FOUND",), "", ServerUnavailable, _UNKNOWN_MODEL),
    _Rule(("UNAVAILABLE",), "", ServerUnavailable,
          "no StyleCLIP server answers at {url}: start one with `make serve`, and "
          "give its address (gRPC: localhost:8001; HTTP: http://localhost:8000){tls_hint}", True),
    _Rule(("UNAUTHENTICATED", "PERMISSION_DENIED"), "", AccessRefused,
          "{url} refuses the call ({message}): check the token"),
    _Rule(("INVALID_ARGUMENT",), "", InvalidInput, "{message}"),
    _Rule((), "", ServerError, "{message}"),
)  # fmt: skip


# Triton refuses a latent of another generator before a step can name the error.
_LATENT_SHAPE = re.compile(
    r"unexpected shape for input 'W_PLUS'.*Expected \[-1,(\d+),\d+\], got \[\d+,(\d+),", re.DOTALL
)


class CallFailed(Exception):
    """A call that failed; `code` is gRPC's name of the status over either protocol."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    @property
    def is_transient(self) -> bool:
        """Whether the same call may succeed a moment later: no server answered, or a busy one.

        Every request of this client is pure, so one that may have been carried out can be repeated.
        """
        return self._server_error() is None and self._rule().transient

    @property
    def is_busy(self) -> bool:
        """Whether the server works but has a full queue, or let the request wait for too long."""
        return self._server_error() is None and self._rule().error is ServerBusy

    def to_error(self, url: str, timeout: float) -> StyleclipError:
        """Return the named error for a call to `url` that had `timeout` seconds."""
        rule = self._rule()
        # With TLS the cause may be a certificate that is not trusted.
        tls = url.startswith(("grpcs:", "https:"))
        return self._server_error() or rule.error(
            rule.text.format(
                url=url,
                timeout=timeout,
                message=self.message or self.code,
                tls_hint=f"; the cause: {self.message}" if tls else "",
            )
        )

    def _server_error(self) -> StyleclipError | None:
        """The error that the server named in its message, if it named one."""
        if match := _LATENT_SHAPE.search(self.message):
            return InvalidLatent(
                f"W+ has {match[2]} rows; the server's generator needs {match[1]}, as its own "
                "`invert` returns them"
            )
        error = from_wire(self.message)
        return None if str(error) == self.message else error

    def _rule(self) -> _Rule:
        return next(
            rule
            for rule in _RULES
            if (not rule.codes or self.code in rule.codes)
            and re.search(rule.pattern, self.message, re.DOTALL)
        )
