"""A client of Triton on this machine, whose cancelled calls end the running step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from styleclip_client import AsyncClient
from styleclip_client.address import Connection
from styleclip_client.grpc_transport import AsyncGrpcTransport
from styleclip_client.protocol import InferRequest, Request
from styleclip_contract.wire import ENSEMBLES
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
        if not (isinstance(request, InferRequest) and request.model in ENSEMBLES):
            return await super().send(request, timeout)
        with self._cancelled.number() as number:
            return await super().send(replace(request, sequence=number), timeout)
