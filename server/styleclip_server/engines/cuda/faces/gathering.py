"""Calls of several threads that are run together, since a GPU takes little longer for a batch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Generic, TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


class Gathered(Generic[In, Out]):
    """Runs `call` in one thread, on everything that other threads ask for while it is busy.

    Args:
        call: returns a result for each item.
        limit: items of a call.
    """

    def __init__(self, call: Callable[[Sequence[In]], Sequence[Out]], limit: int) -> None:
        self._call, self._limit = call, limit
        self._waiting: queue.SimpleQueue[tuple[In, Future[Out]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="gathered", daemon=True).start()

    def __call__(self, item: In) -> Out:
        """Return the result of one item; raise what the call with it raised."""
        future: Future[Out] = Future()
        self._waiting.put((item, future))
        return future.result()

    def _run(self) -> None:
        while True:
            batch = [self._waiting.get()]
            while len(batch) < self._limit and not self._waiting.empty():
                batch.append(self._waiting.get())
            try:
                results = self._call([item for item, _ in batch])
                for (_, future), result in zip(batch, results, strict=True):
                    future.set_result(result)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            del batch, future  # an idle thread keeps no photos
