"""Who may call, and how often: the same for HTTP and gRPC.

A caller sends a token as `Authorization: Bearer TOKEN`, in gRPC as metadata. Rate limit: a token
bucket per token, or per address where no token is needed.
"""

from __future__ import annotations

import hmac
import threading
import time
from collections.abc import Mapping

from grpc import StatusCode

from styleclip_server.api.refusals import Refused

BURST_SECONDS = 2.0  # of the rate that a caller may use at once
_MAX_CALLERS = 10_000  # with a bucket at a time


class Access:
    """Checks callers.

    Args:
        tokens: the name of each token; empty: no token is needed.
        rate: calls per second and caller; 0: any number.
    """

    def __init__(self, tokens: Mapping[str, str] | None = None, rate: float = 0) -> None:
        self._tokens = {token.encode(): name for token, name in (tokens or {}).items()}
        self._rate = rate
        self._buckets: dict[str, tuple[float, float]] = {}  # calls left, and since when
        self._lock = threading.Lock()  # HTTP and gRPC are served by different threads

    def check(self, authorization: str | bytes | None, address: str) -> None:
        """Count a call by a caller.

        Args:
            authorization: the header, if there is one.
            address: where the call comes from, without the port.

        Raises:
            Refused: without a valid token, or too often.
        """
        caller = self._identify(authorization) if self._tokens else address
        if self._rate:
            with self._lock:
                self._limit(caller)

    def _identify(self, authorization: str | bytes | None) -> str:
        header = authorization or b""
        scheme, _, token = (
            header.encode("utf-8", "replace") if isinstance(header, str) else header
        ).partition(b" ")
        # Compares with each token, in a time that depends on none.
        names = [
            name
            for known, name in self._tokens.items()
            if hmac.compare_digest(known, token.strip())
        ]
        if scheme.lower() != b"bearer" or not names:
            raise Refused(StatusCode.UNAUTHENTICATED, "no valid token")
        return names[0]

    def _limit(self, caller: str) -> None:
        now, burst = time.monotonic(), max(1.0, BURST_SECONDS * self._rate)
        left, since = self._buckets.pop(caller, (burst, now))
        left = min(burst, left + (now - since) * self._rate)
        if left < 1:
            self._buckets[caller] = left, now
            raise Refused(
                StatusCode.RESOURCE_EXHAUSTED,
                f"more than {self._rate:g} requests per second: try again later",
                retry_after=(1 - left) / self._rate,
            )
        self._buckets[caller] = left - 1, now
        if len(self._buckets) > _MAX_CALLERS:  # the one that was unused the longest
            self._buckets.pop(next(iter(self._buckets)))
