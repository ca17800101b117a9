"""Functions of the client for synchronous code, run in a thread with the asynchronous client."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar, cast

from styleclip_client import AsyncClient, Client

T = TypeVar("T")


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
