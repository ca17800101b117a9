"""A client of Triton on this machine, whose cancelled calls end the running step."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from styleclip_client import AsyncClient
from styleclip_client.address import Connection
from styleclip_client.failures import CallFailed
from styleclip_client.grpc_transport import AsyncGrpcTransport
from styleclip_client.protocol import InferRequest, Request
from styleclip_server.api.kserve.triton import INFER_SECONDS
from styleclip_server.cancelled_calls import CancelledCalls


class LocalClient(AsyncClient):
    """Calls Triton's private gRPC port. Created and used in one event loop."""

    def __init__(self, address: str, cancelled: CancelledCalls) -> None:
        super().__init__(address)
        self._transports.append(_Transport(self._connection, cancelled))


class _Transport(AsyncGrpcTransport):
    def __init__(self, connection: Connection, cancelled: CancelledCalls) -> None:
        super().__init__(connection)
        self._cancelled = cancelled

    async def send(self, request: Request, timeout: float) -> Any:
        """Return the response to `request`, as the base class does."""
        if not isinstance(request, InferRequest):
            return await super().send(request, timeout)
        send = super().send

        async def infer(number: int) -> Any:
            return await send(replace(request, sequence=number), INFER_SECONDS)

        try:
            return await self._cancelled.run(infer, timeout)
        except asyncio.TimeoutError:
            raise CallFailed("DEADLINE_EXCEEDED", "Deadline Exceeded") from None
