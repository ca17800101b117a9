"""The clients: the same typed calls for threads and for asyncio, over gRPC or HTTP.

    from styleclip_client import AsyncClient, Client

    with Client("localhost:8001") as client:
        edit = client.domain().edit("a face with sunglasses")
        client.edit_photo("me.jpg", edit).image().show()

    async with AsyncClient("http://localhost:8000") as client:
        edited = await client.edit_photo("me.jpg", edit)

`plans` says what each call means, a transport carries it, and here plans are run: within a
time-out, and again after a failure that may pass. Every failure is one of
`styleclip_client.errors`.
"""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import os
import time
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from types import TracebackType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar

from tenacity import (
    AsyncRetrying,
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
    wait_exponential,
    wait_random,
)

from styleclip_client import parallel_calls, requests
from styleclip_client.address import Address, Compression, Connection
from styleclip_client.images import Picture
from styleclip_client.protocol import Call, Failed, Infer
from styleclip_client.requests import Plan
from styleclip_client.results import Edited, Status
from styleclip_contract.edits import Edit
from styleclip_contract.errors import StyleclipError

if TYPE_CHECKING:
    from styleclip_client.shared_memory import SharedMemory

TIMEOUT = 60.0  # seconds, for one method with all its attempts
RETRIES = 3
_FAREWELL = 2.0  # seconds for the server to let go of shared memory
# Seconds: 0.2, 0.4, 0.8, … and a bit more, so that many clients do not come back together.
_WAIT = wait_exponential(multiplier=0.2, max=5.0) + wait_random(0.0, 0.2)

P = ParamSpec("P")
T = TypeVar("T")
Self = TypeVar("Self", bound="_Settings")


class Transport(Protocol):
    """What carries calls for `Client`."""

    def send(self, call: Call, timeout: float) -> Any:
        """The answer to `call` within `timeout` seconds; raises Failed."""

    def close(self) -> None:
        """Close the connection."""


class AsyncTransport(Protocol):
    """What carries calls for `AsyncClient`."""

    async def send(self, call: Call, timeout: float) -> Any:
        """The answer to `call` within `timeout` seconds; raises Failed."""

    async def close(self) -> None:
        """Close the connection."""


class _Settings:
    """What both clients are made of, but for what carries their calls."""

    def __init__(
        self,
        url: str = "localhost:8001",
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
        """A client of the server at `url`; nothing is sent before the first call.

        `url` says how to talk: "host", "host:port" or "grpc://…" is gRPC, "http://…" HTTP, and
        "grpcs://…" and "https://…" the same with TLS. `timeout` is in seconds for each method,
        with all its attempts: after a failure that may pass (no server, or a busy one) there are
        up to `retries` more, ever later. `token` goes along as "authorization: Bearer …", as do
        `headers`. `ca` is a PEM file with the authorities to trust; `certificate` and `key` prove
        who the client is. `compression` is worth it for latents on slow lines, not for photos. The
        ids of its requests, in the server's log and in traces, begin with `name`. With
        `shared_memory` raw pixels (`draw`, `paste`) are not sent but lie in memory that this host
        shares with its server, which must allow it.
        Raises ValueError for settings that cannot be meant.
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
        self._shared: SharedMemory | None = None
        if shared_memory:
            from styleclip_client.shared_memory import SharedMemory

            self._shared = SharedMemory()
        self._connect()

    def _connect(self) -> None:
        """Make what carries the calls; clients made by `within` share it."""
        raise NotImplementedError

    def within(self: Self, timeout: float, retries: int | None = None) -> Self:
        """The same connection with another time-out: `client.within(5).edit(…)`."""
        other = copy.copy(self)
        other.timeout = timeout
        other.retries = self.retries if retries is None else retries
        return other

    def _begun(self, plan: Plan[T]) -> Plan[T]:
        """`plan` as it is run: its large tensors in shared memory, if that is wanted."""
        return self._shared.through(plan) if self._shared else plan

    def _named(self, failed: Failed, call: Call) -> StyleclipError:
        """The named error behind `failed`, which knows the request that it is of."""
        error = failed.named(self.url, self.timeout)
        if isinstance(call, Infer):
            error.request_id = self._connection.request_id(call.id)
        return error

    def _policy(self) -> dict[str, Any]:
        """When tenacity tries again: never an answer that would stay the same."""
        return {
            "retry": retry_if_exception(
                lambda error: isinstance(error, Failed) and error.transient
            ),
            "wait": _WAIT,
            "stop": self._gives_up,
            "reraise": True,
        }

    def _gives_up(self, state: RetryCallState) -> bool:
        """Whether that was the last attempt: a busy server is asked until time is up."""
        error = state.outcome.exception() if state.outcome else None
        busy = self.retries > 0 and isinstance(error, Failed) and error.busy
        late = stop_before_delay(self.timeout)(state)
        return late or (not busy and stop_after_attempt(1 + self.retries)(state))


class _Step:
    """One step of a plan: its next call, or its result. `to` is what it takes: an answer to its
    last call, or the error in place of one."""

    def __init__(self, plan: Plan[Any], to: Any = None) -> None:
        self.call: Call | None = None
        self.result: Any = None
        try:
            self.call = plan.throw(to) if isinstance(to, Exception) else plan.send(to)
        except StopIteration as end:
            self.result = end.value


def _as_method(method: Any, plan: Callable[..., Any]) -> Any:
    """Let `help` show `method` with the parameters of `plan` and what the plan returns."""
    signature = inspect.signature(plan)
    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    method.__signature__ = signature.replace(
        parameters=[this, *signature.parameters.values()],
        return_annotation=str(signature.return_annotation)[len("Plan[") : -1],
    )
    return method


def _sync(plan: Callable[P, Plan[T]]) -> Callable[Concatenate[Client, P], T]:
    """The method of `Client` that runs `plan`."""

    @functools.wraps(plan)
    def method(self: Client, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._run(plan(*args, **kwargs))

    return _as_method(method, plan)  # type: ignore[no-any-return]


def _async(plan: Callable[P, Plan[T]]) -> Callable[Concatenate[AsyncClient, P], Awaitable[T]]:
    """The method of `AsyncClient` that runs `plan`."""

    @functools.wraps(plan)
    async def method(self: AsyncClient, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(plan(*args, **kwargs))

    return _as_method(method, plan)  # type: ignore[no-any-return]


class Client(_Settings):
    """A connection to one server; safe to share between threads, closed by `with`."""

    edit_photo = _sync(requests.edit_photo)
    faces = _sync(requests.faces)
    invert = _sync(requests.invert)
    edit = _sync(requests.edit)
    paste = _sync(requests.paste)
    draw = _sync(requests.draw)
    direction = _sync(requests.direction)
    timings = _sync(requests.timings)
    domain = _sync(requests.domain)

    def _connect(self) -> None:
        self._transport: Transport
        # Imported when needed: a user of gRPC loads no HTTP, and the other way round.
        if self._connection.address.grpc:
            from styleclip_client.grpc_transport import GrpcTransport

            self._transport = GrpcTransport(self._connection)
        else:
            from styleclip_client.http_transport import HttpTransport

            self._transport = HttpTransport(self._connection)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._shared:
            self.within(_FAREWELL, retries=0)._run(self._shared.forget())
        self._transport.close()

    def status(self) -> Status:
        """What the server serves and whether it is ready, now: asked once, never again."""
        return self.within(self.timeout, retries=0)._run(requests.status(self.url))

    def edit_many(
        self,
        photos: Iterable[Picture],
        edits: Edit | Sequence[Edit],
        *,
        concurrency: int = 4,
        **options: Any,
    ) -> Iterator[Edited | parallel_calls.Failure]:
        """`edit_photo` of each photo, in their order, `concurrency` at once.

        Yields the `Edited`, or the StyleclipError or OSError that kept this one photo from it.
        `options` are those of `edit_photo`.
        """
        calls = (functools.partial(self.edit_photo, photo, edits, **options) for photo in photos)
        return parallel_calls.in_order(calls, concurrency)

    def _run(self, plan: Plan[T]) -> T:
        deadline = time.monotonic() + self.timeout
        plan = self._begun(plan)
        step = _Step(plan)
        while step.call is not None:
            step = _Step(plan, self._answer(step.call, deadline))
        return step.result  # type: ignore[no-any-return]

    def _answer(self, call: Call, deadline: float) -> Any:
        try:
            return self._send(call, deadline)
        except StyleclipError as error:
            return error

    def _send(self, call: Call, deadline: float) -> Any:
        def attempt() -> Any:
            return self._transport.send(call, _left(deadline))

        try:
            return Retrying(**self._policy())(attempt)
        except Failed as failed:
            raise self._named(failed, call) from failed


class AsyncClient(_Settings):
    """The same for asyncio, closed by `async with`; for one event loop."""

    edit_photo = _async(requests.edit_photo)
    faces = _async(requests.faces)
    invert = _async(requests.invert)
    edit = _async(requests.edit)
    paste = _async(requests.paste)
    draw = _async(requests.draw)
    direction = _async(requests.direction)
    timings = _async(requests.timings)
    domain = _async(requests.domain)

    def _connect(self) -> None:
        # One entry once a call was made: both libraries bind to the loop that runs then.
        self._transports: list[AsyncTransport] = []

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connection."""
        if self._shared and self._transports:
            await self.within(_FAREWELL, retries=0)._run(self._shared.forget())
        while self._transports:
            await self._transports.pop().close()

    async def status(self) -> Status:
        """What the server serves and whether it is ready, now: asked once, never again."""
        return await self.within(self.timeout, retries=0)._run(requests.status(self.url))

    def edit_many(
        self,
        photos: Iterable[Picture],
        edits: Edit | Sequence[Edit],
        *,
        concurrency: int = 4,
        **options: Any,
    ) -> AsyncIterator[Edited | parallel_calls.Failure]:
        """`Client.edit_many` for `async for`; leaving the loop early cancels what runs."""
        calls = (functools.partial(self.edit_photo, photo, edits, **options) for photo in photos)
        return parallel_calls.in_order_async(calls, concurrency)

    def _transport(self) -> AsyncTransport:
        if not self._transports:
            if self._connection.address.grpc:
                from styleclip_client.grpc_transport import AsyncGrpcTransport

                self._transports.append(AsyncGrpcTransport(self._connection))
            else:
                from styleclip_client.http_transport import AsyncHttpTransport

                self._transports.append(AsyncHttpTransport(self._connection))
        return self._transports[0]

    async def _run(self, plan: Plan[T]) -> T:
        deadline = time.monotonic() + self.timeout
        # The first step may read a file or pack a picture: not in the event loop.
        plan = self._begun(plan)
        step = await asyncio.to_thread(_Step, plan)
        while step.call is not None:
            step = _Step(plan, await self._answer(step.call, deadline))
        return step.result  # type: ignore[no-any-return]

    async def _answer(self, call: Call, deadline: float) -> Any:
        try:
            return await self._send(call, deadline)
        except StyleclipError as error:
            return error

    async def _send(self, call: Call, deadline: float) -> Any:
        async def attempt() -> Any:
            return await self._transport().send(call, _left(deadline))

        try:
            return await AsyncRetrying(**self._policy())(attempt)
        except Failed as failed:
            raise self._named(failed, call) from failed


def _left(deadline: float) -> float:
    """Seconds until `deadline`, never none: a transport would wait for ever."""
    return max(deadline - time.monotonic(), 1e-3)
