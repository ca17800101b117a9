"""What the endpoints share: the settings and the connection to Triton."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

from starlette.requests import Request

from styleclip_client import AsyncClient, Client
from styleclip_contract.domain import Domain
from styleclip_contract.errors import ServerBusy, ServerUnavailable, StyleclipError
from styleclip_server.api.http_body import BodyReader
from styleclip_server.api.refusals import Refused
from styleclip_server.api.settings import Settings
from styleclip_server.api.triton import Triton
from styleclip_server.canary import check_server

T = TypeVar("T")

_DOMAIN_SECONDS = 60.0  # that a cached domain is used
_HEALTH_SECONDS = 5.0  # that a canary edit counts


@dataclass
class ApiState:
    """The state of one API server, for one event loop."""

    settings: Settings
    client: AsyncClient
    triton: Triton
    bodies: BodyReader
    _domain: tuple[float, Domain] | None = None
    _canary: tuple[float, StyleclipError | None] | None = None
    _canary_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def client_for(self, request: Request) -> AsyncClient:
        """Return a client whose calls have the id of `request` in the server's log."""
        return self.client.within(self.client.timeout, request_id=request_id(request))

    @contextmanager
    def admitted(self, calls: int = 1) -> Iterator[int]:
        """Count a request as running during a `with` block; yields how many calls it may make.

        Raises:
            ServerBusy: too many requests are running.
        """
        calls = max(1, min(calls, self.triton.admission.limit))
        with ExitStack() as stack:
            try:
                stack.enter_context(self.triton.admission.enter(calls))
            except Refused as error:
                raise ServerBusy(error.message) from error
            yield calls

    async def domain(self) -> Domain:
        """Return what the server's generator draws."""
        now = time.monotonic()
        if self._domain is None or now - self._domain[0] > _DOMAIN_SECONDS:
            self._domain = now, await self.client.domain()
        return self._domain[1]

    async def check_health(self) -> float:
        """Edit a small image, unless that was done a moment ago; return how long ago.

        Raises:
            StyleclipError: the server cannot edit.
        """
        try:
            await self.triton.call("ServerLive", b"")
        except Refused as error:  # at once, whatever was edited a moment ago
            raise ServerUnavailable(error.message) from error
        async with self._canary_lock:
            if self._canary is None or time.monotonic() - self._canary[0] > _HEALTH_SECONDS:
                try:
                    await asyncio.to_thread(check_server, self.settings.triton_grpc)
                    self._canary = time.monotonic(), None
                except StyleclipError as error:
                    self._canary = time.monotonic(), error
            since, failure = self._canary
        if failure:
            raise failure
        return time.monotonic() - since


def get_state(request: Request) -> ApiState:
    """Return the state of the application that received `request`."""
    return cast(ApiState, request.app.state.api)


def request_id(request: Request) -> str:
    """Return the id of `request`."""
    return str(request.scope["state"]["request_id"])


async def call_in_thread(
    function: Callable[..., T], client: AsyncClient, *arguments: Any, **options: Any
) -> T:
    """Call `function`, written for a `Client`, in a thread; its calls are made by `client`.

    When this is cancelled, so is the call under way, and the function ends.
    """
    calls = _Calls(client)
    try:
        return await asyncio.to_thread(function, cast(Client, calls), *arguments, **options)
    except asyncio.CancelledError:
        calls.cancel()
        raise


class _Calls:
    """The methods of an `AsyncClient` for one other thread, which waits for their results."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
        if self._task:
            self._task.cancel()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._client, name)

        def call(*arguments: Any, **options: Any) -> Any:
            return asyncio.run_coroutine_threadsafe(
                self._run(method(*arguments, **options)), self._loop
            ).result()

        return call

    async def _run(self, call: Awaitable[T]) -> T:
        self._task = asyncio.ensure_future(call)  # type: ignore[arg-type]
        if self._cancelled:
            self._task.cancel()
        return cast(T, await self._task)
