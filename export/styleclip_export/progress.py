"""Functions that the exporter calls while it works."""

from __future__ import annotations

from collections.abc import Callable

ReportLine = Callable[[str], None]
"""Called with each line for the user."""

ReportRows = Callable[[int, int], None]
"""Called with the number of rows that are computed, and of all rows."""
