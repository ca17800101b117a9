"""What long commands report: progress bars, on a terminal only, and the peak memory."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Iterator
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

from styleclip_export.progress import ReportRows, describe_duration

LINE_SECONDS = 10.0  # between lines about downloads, without a terminal


def peak_memory_mib() -> float:
    """Return the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def channel_bar(console: Console) -> Iterator[ReportRows]:
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
    """One bar for each download with the time left, and lines above them.

    Without a terminal, a line about all downloads every few seconds.

    Args:
        expected: bytes of all downloads.
    """

    def __init__(self, output: Console, errors: Console, expected: int) -> None:
        self._output, self._expected = output, expected
        self._bytes: dict[str, tuple[int, int]] = {}  # of each file: present at first, and now
        self._start = self._last_line = time.monotonic()
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
            first, _ = self._bytes.get(name, (size, size))
            self._bytes[name] = min(first, size), size
            line = self._line() if self._bars.disable else None
        self._bars.update(self._tasks[name], completed=size, total=total)
        if line:
            self.message(line)

    def _line(self) -> str | None:
        """Return how far all downloads are, if it is time for a line."""
        now = time.monotonic()
        if now - self._last_line < LINE_SECONDS:
            return None
        self._last_line = now
        before, done = (sum(sizes) for sizes in zip(*self._bytes.values(), strict=True))
        speed = (done - before) / (now - self._start)
        if speed <= 0:
            return None
        left = describe_duration(max(self._expected - done, 0) / speed)
        return (
            f"downloads: {done / 1e6:,.0f} of about {self._expected / 1e6:,.0f} MB, "
            f"{speed / 1e6:.1f} MB/s, about {left} left"
        )

    def message(self, line: str) -> None:
        """Print a line."""
        self._output.print(line, markup=False)
