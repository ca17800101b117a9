"""asyncio tasks that are cancelled when their client disconnects, or when a block ends."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

T = TypeVar("T")


async def cancel_on_disconnect(work: Awaitable[T], receive: Receive) -> T:
    """Return the result of `work`; when the client disconnects, cancel it.

    Args:
        receive: of a request whose body has been read.

    Raises:
        ClientDisconnect: the client has disconnected.
    """
    caller = asyncio.current_task()
    assert caller
    is_disconnected = False

    async def watch() -> None:
        nonlocal is_disconnected
        while (await receive())["type"] != "http.disconnect":
            pass
        is_disconnected = True
        caller.cancel()

    watcher = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not is_disconnected:
            raise
        if sys.version_info >= (3, 11):
            caller.uncancel()
        raise ClientDisconnect from None
    finally:
        watcher.cancel()


async def within(seconds: float, work: Awaitable[T]) -> T:
    """Return the result of `work`, as asyncio.wait_for does, without a task where Python can.

    Raises:
        asyncio.TimeoutError: it takes longer.
    """
    if sys.version_info < (3, 11):
        return await asyncio.wait_for(work, seconds)
    async with asyncio.timeout(seconds):
        return await work


@asynccontextmanager
async def running_in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run `work` during a `with` block, then cancel it."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
