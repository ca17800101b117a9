"""Parallel calls of bounded number, with results in order and failures as results."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeAlias, TypeVar

from styleclip_contract.errors import StyleclipError

T = TypeVar("T")
Failure: TypeAlias = "StyleclipError | OSError"  # OSError: a file that cannot be read

_FAILURES = (StyleclipError, OSError)
_SUBMITTED_PER_WORKER = 2  # calls, so that a slow one does not stop the next ones


def in_order(calls: Iterable[Callable[[], T]], concurrency: int) -> Iterator[T | Failure]:
    """Yield the result of each call, or its failure; at most `concurrency` run at once.

    `calls` is read as there is room. When the iteration ends early, no more calls are started, and
    it waits for running ones.
    """
    _check_concurrency(concurrency)
    pool = ThreadPoolExecutor(concurrency, "styleclip")
    try:
        running: deque[Future[T | Failure]] = deque()
        for call in calls:
            running.append(pool.submit(_result_or_failure, call))
            if len(running) >= _SUBMITTED_PER_WORKER * concurrency:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


async def in_order_async(
    calls: Iterable[Callable[[], Awaitable[T]]], concurrency: int
) -> AsyncGenerator[T | Failure, None]:
    """Like `in_order`, with asyncio; an early end of the iteration cancels running calls."""
    _check_concurrency(concurrency)
    semaphore = asyncio.Semaphore(concurrency)

    async def result_or_failure(call: Callable[[], Awaitable[T]]) -> T | Failure:
        async with semaphore:
            try:
                return await call()
            except _FAILURES as error:
                return error

    running: deque[asyncio.Task[T | Failure]] = deque()
    try:
        for call in calls:
            running.append(asyncio.create_task(result_or_failure(call)))
            if len(running) >= _SUBMITTED_PER_WORKER * concurrency:
                yield await running[0]
                running.popleft()
        while running:
            yield await running[0]
            running.popleft()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _result_or_failure(call: Callable[[], T]) -> T | Failure:
    try:
        return call()
    except _FAILURES as error:
        return error


def _check_concurrency(concurrency: int) -> None:
    if concurrency < 1:
        raise ValueError(f"concurrency is {concurrency}; 1 or more is expected")
