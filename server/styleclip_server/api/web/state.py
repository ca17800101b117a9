"""What the endpoints share: the settings and the connection to Triton."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends, Request

from styleclip_client import AsyncClient
from styleclip_contract.domain import Domain
from styleclip_contract.errors import ServerBusy
from styleclip_server.api.admission import Admission, RequestClass
from styleclip_server.api.health_check import HealthCheck
from styleclip_server.api.http_body import BodyReader
from styleclip_server.api.refusals import Refused
from styleclip_server.api.settings import Settings

_CALLS = 4  # of one request that run at a time
_DOMAIN_SECONDS = 60.0  # that a cached domain is used


@dataclass
class ApiState:
    """The state of one API server, for one event loop."""

    settings: Settings
    client: AsyncClient
    admission: Admission
    bodies: BodyReader
    health: HealthCheck
    _domain: tuple[float, Domain] | None = None

    def client_for(self, request: Request) -> AsyncClient:
        """Return a client whose calls have the id of `request` in the server's log."""
        return self.client.within(self.client.timeout, request_id=request_id(request))

    @contextmanager
    def admitted(self, calls: int = 1, request_class: RequestClass | None = None) -> Iterator[int]:
        """Count a request as running during a `with` block.

        Args:
            calls: that it has to make.
            request_class: see `Admission.enter`.

        Yields:
            How many of them it may make at a time.

        Raises:
            ServerBusy: too many requests are running.
        """
        concurrency = max(1, min(calls, _CALLS, self.admission.limit))
        with ExitStack() as stack:
            try:
                stack.enter_context(self.admission.enter(concurrency, request_class))
            except Refused as error:
                raise ServerBusy(error.message) from error
            yield concurrency

    async def domain(self) -> Domain:
        """Return what the server's generator draws."""
        now = time.monotonic()
        if self._domain is None or now - self._domain[0] > _DOMAIN_SECONDS:
            self._domain = now, await self.client.domain()
        return self._domain[1]


async def get_state(request: Request) -> ApiState:
    """Return the state of the application that received `request`."""
    return cast(ApiState, request.app.state.api)


State = Annotated[ApiState, Depends(get_state)]
"""A parameter of an endpoint, which FastAPI fills in."""


def request_id(request: Request) -> str:
    """Return the id of `request`."""
    return str(request.scope["state"]["request_id"])
