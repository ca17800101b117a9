"""Many calls at once, their number bounded, their order kept, their failures kept apart."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from styleclip_contract.errors import StyleclipError

T = TypeVar("T")
Failure: TypeAlias = "StyleclipError | OSError"  # OSError: a file that cannot be read

_FAILURES = (StyleclipError, OSError)
_AHEAD = 2  # finished calls wait for a slow one before them: so many for each that may run


def in_order(calls: Iterable[Callable[[], T]], concurrency: int) -> Iterator[T | Failure]:
    """What each call returns, or the failure it raised; at most `concurrency` run at once.

    `calls` is drawn from as there is room. Left early, it starts no more and waits for those
    that run.
    """
    _check(concurrency)
    pool = ThreadPoolExecutor(concurrency, "styleclip")
    try:
        running: deque[Future[T | Failure]] = deque()
        for call in calls:
            running.append(pool.submit(_kept, call))
            if len(running) >= _AHEAD * concurrency:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


async def in_order_async(
    calls: Iterable[Callable[[], Awaitable[T]]], concurrency: int
) -> AsyncIterator[T | Failure]:
    """The same with asyncio; left early, it cancels those that run."""
    _check(concurrency)
    room = asyncio.Semaphore(concurrency)

    async def kept(call: Callable[[], Awaitable[T]]) -> T | Failure:
        async with room:
            try:
                return await call()
            except _FAILURES as error:
                return error

    running: deque[asyncio.Task[T | Failure]] = deque()
    try:
        for call in calls:
            running.append(asyncio.create_task(kept(call)))
            if len(running) >= _AHEAD * concurrency:
                yield await running[0]
                running.popleft()
        while running:
            yield await running[0]
            running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _kept(call: Callable[[], T]) -> T | Failure:
    try:
        return call()
    except _FAILURES as error:
        return error


def _check(concurrency: int) -> None:
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; 1 or more is expected")
