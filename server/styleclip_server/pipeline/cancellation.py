"""Long work that ends soon after its client has disconnected.

Whoever starts the work says how to find out (`cancelled_by`); the work calls `check_cancelled`
between its parts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_is_cancelled: ContextVar[Callable[[], bool]] = ContextVar("is_cancelled", default=lambda: False)


class WorkCancelled(Exception):
    """The client has disconnected."""


@contextmanager
def cancelled_by(is_cancelled: Callable[[], bool]) -> Iterator[None]:
    """Let `check_cancelled` ask `is_cancelled` during a `with` block, in this thread."""
    token = _is_cancelled.set(is_cancelled)
    try:
        yield
    finally:
        _is_cancelled.reset(token)


def check_cancelled() -> None:
    """Return if the client is connected.

    Raises:
        WorkCancelled: its client has disconnected.
    """
    if _is_cancelled.get()():
        raise WorkCancelled
