"""Checks that the server edits images, by a small edit (the canary)."""

from __future__ import annotations

import asyncio
import time

from styleclip_contract.errors import ServerUnavailable, StyleclipError
from styleclip_server.api.kserve.triton import Triton
from styleclip_server.api.refusals import Refused
from styleclip_server.canary import check_server

_SECONDS = 5.0  # that the result of a canary edit counts


class HealthCheck:
    """The health of one server; many probes share one canary edit.

    Args:
        triton: the connection, which shows at once whether Triton has ended.
        address: "host:port" of Triton's gRPC port, for the canary edit.
    """

    def __init__(self, triton: Triton, address: str) -> None:
        self._triton = triton
        self._address = address
        self._lock = asyncio.Lock()
        self._last: tuple[float, StyleclipError | None] | None = None  # when, and the failure

    async def check(self) -> float:
        """Edit a small image, unless that was done a moment ago; return how many seconds ago.

        Raises:
            StyleclipError: the server cannot edit.
        """
        try:
            await asyncio.to_thread(self._triton.call, "ServerLive", b"")
        except Refused as error:
            raise ServerUnavailable(error.message) from error
        async with self._lock:
            if self._last is None or time.monotonic() - self._last[0] > _SECONDS:
                failure = await self._edit()
                self._last = time.monotonic(), failure
            since, failure = self._last
        if failure:
            raise failure
        return time.monotonic() - since

    async def _edit(self) -> StyleclipError | None:
        try:
            await asyncio.to_thread(check_server, self._address)
        except StyleclipError as error:
            return error
        return None
