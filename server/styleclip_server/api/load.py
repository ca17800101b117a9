"""What the processes of an API server know of each other's load: numbers in memory that they share.

A number of the load of one process is written by that process alone. So no process locks another
out, and one that ends leaves nothing locked.
"""

from __future__ import annotations

import mmap
from collections.abc import MutableSequence
from enum import IntEnum
from pathlib import Path
from typing import cast

_NUMBER_BYTES = 8
_SHARED = 2  # numbers before those of the processes


class _Count(IntEnum):
    RUNNING, ADMITTED, REFUSED = range(3)


class Load:
    """The load of all processes, as one of them sees and changes it.

    Args:
        numbers: all 0 at the start; None: of a single process.
        process: the number of this process, from 0 on.
    """

    def __init__(self, numbers: MutableSequence[int] | None = None, process: int = 0) -> None:
        self._numbers = [0] * (_SHARED + len(_Count)) if numbers is None else numbers
        self._first = _SHARED + len(_Count) * process
        # An earlier process of this number may have ended while requests were running. What it
        # admitted and refused still counts: the sums never fall below `changed`.
        self._numbers[self._first + _Count.RUNNING] = 0

    @classmethod
    def open(cls, path: Path, process: int, processes: int) -> Load:
        """Return the load of `processes` processes that share a file, which is created at need."""
        size = _NUMBER_BYTES * (_SHARED + len(_Count) * processes)
        with path.open("a+b") as file:
            file.truncate(size)  # which leaves what is there, and adds zeros
            memory = memoryview(mmap.mmap(file.fileno(), size)).cast("q")
        return cls(cast(MutableSequence[int], memory), process)

    @property
    def limit(self) -> int:
        """The bound on running rows, of all processes together; 0 until one sets it."""
        return self._numbers[0]

    @limit.setter
    def limit(self, limit: int) -> None:
        self._numbers[0] = limit
        self._numbers[1] = self.admitted

    @property
    def changed(self) -> int:
        """How many requests had been admitted when the bound was set."""
        return self._numbers[1]

    @property
    def running(self) -> int:
        """Rows that are running, of all processes."""
        return self._sum(_Count.RUNNING)

    @property
    def admitted(self) -> int:
        """Requests admitted so far, by all processes."""
        return self._sum(_Count.ADMITTED)

    @property
    def refused(self) -> int:
        """Requests refused so far, by all processes."""
        return self._sum(_Count.REFUSED)

    def admit(self, rows: int) -> None:
        """Count a request of this process as running."""
        self._numbers[self._first + _Count.ADMITTED] += 1
        self._numbers[self._first + _Count.RUNNING] += rows

    def end(self, rows: int) -> None:
        """Count a request of this process as ended."""
        self._numbers[self._first + _Count.RUNNING] -= rows

    def refuse(self) -> None:
        """Count a request as refused by this process."""
        self._numbers[self._first + _Count.REFUSED] += 1

    def _sum(self, count: _Count) -> int:
        return sum(self._numbers[_SHARED + count :: len(_Count)])
