"""Callbacks by which the exporter reports its progress."""

from __future__ import annotations

from collections.abc import Callable

ReportLine = Callable[[str], None]
"""Called with each line for the user."""

ReportRows = Callable[[int, int], None]
"""Called with the number of rows that are computed, and of all rows."""

ReportBytes = Callable[[int, int | None], None]
"""Called with the bytes that have arrived, and of all bytes where their number is known."""


def describe_duration(seconds: float) -> str:
    """Return a duration for people, in its largest unit: "26.0 days", "12 minutes", "40 s"."""
    for unit, size in (("days", 86_400), ("hours", 3_600)):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"
