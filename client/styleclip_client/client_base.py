"""What `Client` and `AsyncClient` share: settings, deadlines and retries."""

from __future__ import annotations

import copy
import os
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from tenacity import (
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
    wait_random,
)

from styleclip_client.address import DEFAULT_URL, Address, Compression, Connection
from styleclip_client.failures import CallFailed
from styleclip_client.protocol import InferRequest, Request
from styleclip_contract.domain import Domain
from styleclip_contract.errors import StyleclipError

if TYPE_CHECKING:
    from styleclip_client.shared_memory import SharedMemory

TIMEOUT = 60.0  # seconds, for one method with all its attempts
RETRIES = 3
CLOSE_TIMEOUT = 2.0  # seconds for the server to close shared memory
# Seconds: 0.2, 0.4, 0.8, … with some jitter, so that many clients do not retry together.
_WAIT = wait_exponential(multiplier=0.2, max=5.0) + wait_random(0.0, 0.2)

Self = TypeVar("Self", bound="ClientBase")


class ClientBase(ABC):
    """The settings of a client and its rules for retries."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        timeout: float = TIMEOUT,
        *,
        retries: int = RETRIES,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        ca: str | os.PathLike[str] | None = None,
        certificate: str | os.PathLike[str] | None = None,
        key: str | os.PathLike[str] | None = None,
        compression: Compression | None = None,
        name: str = "",
        shared_memory: bool = False,
    ) -> None:
        """Create a client of the server at `url`; nothing is sent before the first call.

        Args:
            url: "host", "host:port" or "grpc://…" for gRPC, "http://…" for HTTP, and "grpcs://…"
                or "https://…" for the same with TLS.
            timeout: seconds for each method with all its attempts.
            retries: further attempts after a failure that may pass (no server, or a busy one),
                with growing pauses.
            token: sent as "authorization: Bearer …".
            headers: sent with each request.
            ca: PEM file with the authorities to trust.
            certificate, key: PEM files that prove who the client is.
            compression: "gzip" or "deflate"; worth it for latents on slow lines, not for photos.
            name: prefix of request ids in the server's log and traces.
            shared_memory: pass raw pixels (`draw`, `paste`) in memory that this host shares with
                its server, which must allow it.

        Raises:
            ValueError: a setting is invalid.
        """
        bearer = {"authorization": f"Bearer {token}"} if token else {}
        self._connection = Connection(
            Address.parse(url),
            {**bearer, **(headers or {})},
            ca,
            certificate,
            key,
            compression,
            name,
        )
        self.url = str(self._connection.address)
        self.timeout = timeout
        self.retries = retries
        self._request_id: str | None = None
        self._shared: SharedMemory | None = None
        self._served: deque[Domain] = deque(maxlen=1)  # its domain, once it is known
        if shared_memory:
            from styleclip_client.shared_memory import SharedMemory

            self._shared = SharedMemory()
        self._connect()

    @abstractmethod
    def _connect(self) -> None:
        """Set up the transport; clients returned by `within` share it."""

    def within(
        self: Self, timeout: float, retries: int | None = None, request_id: str | None = None
    ) -> Self:
        """Return a client of the same connection with another time-out and number of retries.

        With `request_id`, that is the id of each of its requests in the server's log.
        """
        other = copy.copy(self)
        other._request_id = request_id or self._request_id
        other.timeout = timeout
        other.retries = self.retries if retries is None else retries
        return other

    def _deadline(self) -> float:
        return time.monotonic() + self.timeout

    def _identified(self, request: InferRequest) -> InferRequest:
        return replace(request, id=self._request_id) if self._request_id else request

    def _retry_options(self) -> dict[str, Any]:
        """Tenacity's options: retry only what may succeed a moment later."""
        return {
            "retry": retry_if_exception(
                lambda error: isinstance(error, CallFailed) and error.is_transient
            ),
            "wait": _WAIT,
            "stop": self._is_last_attempt,
            "reraise": True,
        }

    def _is_last_attempt(self, state: RetryCallState) -> bool:
        """Whether to give up; a busy server is retried until the time-out."""
        error = state.outcome.exception() if state.outcome else None
        busy = self.retries > 0 and isinstance(error, CallFailed) and error.is_busy
        late = stop_before_delay(self.timeout)(state)
        return late or (not busy and stop_after_attempt(1 + self.retries)(state))

    def _named_error(self, failure: CallFailed, request: Request) -> StyleclipError:
        error = failure.to_error(self.url, self.timeout)
        if isinstance(request, InferRequest):
            error.request_id = self._connection.request_id(request.id)
        return error


def seconds_left(deadline: float) -> float:
    """Return the seconds until `deadline`, more than zero: transports take zero as no limit."""
    return max(deadline - time.monotonic(), 1e-3)
