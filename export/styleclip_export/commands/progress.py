"""What long commands report: progress bars, on a terminal only, and the peak memory."""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)


def peak_memory_mib() -> float:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def channel_bar(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Show how many channels are done and the time left; yields a callback (done, total)."""
    columns = (
        TextColumn("channels"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("channels", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


class DownloadBars:
    """One bar for each download, and lines above them."""

    def __init__(self, output: Console, errors: Console) -> None:
        self._output = output
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=errors,
            transient=True,
            disable=not errors.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> DownloadBars:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def progress(self, name: str, size: int, total: int | None) -> None:
        """Move the bar of a file to `size` bytes."""
        with self._lock:
            if name not in self._tasks:
                self._tasks[name] = self._bars.add_task(escape(name), total=total)
        self._bars.update(self._tasks[name], completed=size, total=total)

    def message(self, line: str) -> None:
        """Print a line."""
        self._output.print(line, markup=False)
