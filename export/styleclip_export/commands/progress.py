"""Progress bars of long commands: on a terminal only, gone when done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def channel_bar(console: Console) -> Iterator[Callable[[int, int], None]]:
    """Calls of (done, total) move the bar; it tells the time left."""
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
