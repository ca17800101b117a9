"""Calls that were cancelled: what the API server reports to the running step.

Triton 2.51 does not report it to a step of an ensemble, and can end by a segmentation fault when
many calls are cancelled. So the API server never cancels a call to Triton. It gives each call a
random number, which the steps get as its correlation id. Once the call is cancelled, a file of that
name exists, and the running step ends with an error.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

FOLDER_VARIABLE = "STYLECLIP_CANCELLED_CALLS"
_FILES = 1000  # of the newest calls
_SECONDS = 3600.0  # beyond which no call runs


class CancelledCalls:
    """The API server's side, for any thread.

    Args:
        folder: where the files are; created, and emptied of those of earlier processes.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: deque[Path] = deque()
        # A task that only its own call refers to may be collected, which would cancel the call.
        self._abandoned: set[asyncio.Future[Any]] = set()
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir():
            with suppress(FileNotFoundError):  # another process starts, too
                if file.stat().st_mtime < time.time() - _SECONDS:
                    file.unlink()

    async def run(self, call: Callable[[int], Awaitable[T]], timeout: float | None = None) -> T:
        """Return what `call` returns for a new number.

        When this is cancelled, or after `timeout` seconds, the call ends in the background, and its
        running step ends as soon as it checks.

        Raises:
            asyncio.TimeoutError: after `timeout` seconds.
        """
        number = new_number()
        task = asyncio.ensure_future(call(number))
        try:
            await asyncio.wait((task,), timeout=timeout)  # which never cancels the task
        except asyncio.CancelledError:
            self._abandon(task, number)
            raise
        if not task.done():
            self._abandon(task, number)
            raise asyncio.TimeoutError
        return task.result()

    def add(self, number: int) -> None:
        """Report the call with this number as cancelled."""
        file = self._folder / str(number)
        with suppress(OSError):  # a full disk: the step ends later
            file.touch()
        self._files.append(file)
        if len(self._files) > _FILES:
            self._files.popleft().unlink(missing_ok=True)

    def _abandon(self, task: asyncio.Future[Any], number: int) -> None:
        self.add(number)
        self._abandoned.add(task)
        task.add_done_callback(self._finish_abandoned)

    def _finish_abandoned(self, task: asyncio.Future[Any]) -> None:
        self._abandoned.discard(task)
        if not task.cancelled():
            task.exception()  # retrieved, so that asyncio does not log it


def new_number() -> int:
    """Return a random number for a call."""
    return secrets.randbits(62) + 1


def is_cancelled(number: object) -> bool:
    """Return whether the call with this correlation id was cancelled, in a step."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not (folder and number and isinstance(number, int)):  # it may be a text
        return False
    return Path(folder, str(number)).exists()
