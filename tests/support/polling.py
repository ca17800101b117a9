"""Waiting for something that happens in another process or thread."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

SECONDS = 180.0  # far more than a busy machine of two cores needs


def wait_until(condition: Callable[[], T], seconds: float = SECONDS) -> T:
    """Call `condition` until its result is true; return the result.

    Raises:
        AssertionError: It was not true within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.05)
    return result
