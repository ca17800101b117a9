"""Calls that were cancelled: what the API server reports to the running step.

Triton 2.51 does not report it to a step of an ensemble. So the API server gives each call a random
number, which the steps get as its correlation id. Once the call is cancelled, a file of that name
exists.
"""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

FOLDER_VARIABLE = "STYLECLIP_CANCELLED_CALLS"
_FILES = 1000  # of the newest calls


class CancelledCalls:
    """The API server's side.

    Args:
        folder: where the files are; created, and emptied of those of an earlier process.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: deque[Path] = deque()
        folder.mkdir(exist_ok=True)
        for file in folder.iterdir():
            file.unlink()

    @contextmanager
    def number(self) -> Iterator[int]:
        """Yield the number for a call during a `with` block; an exception cancels the call."""
        number = secrets.randbits(62) + 1
        try:
            yield number
        except BaseException:
            self._add(self._folder / str(number))
            raise

    def _add(self, file: Path) -> None:
        with suppress(OSError):  # a full disk: the step ends later
            file.touch()
        self._files.append(file)
        if len(self._files) > _FILES:
            self._files.popleft().unlink(missing_ok=True)


def is_cancelled(number: object) -> bool:
    """Return whether the call with this correlation id was cancelled, in a step."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if not (folder and number and isinstance(number, int)):  # it may be a text
        return False
    return Path(folder, str(number)).exists()
