"""`styleclip-export verify`."""

from __future__ import annotations

import dataclasses
import json
import resource
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from styleclip_export.verify.report import Row, Status

COLOURS: dict[Status, str] = {
    "pass": "green",
    "fail": "bold red",
    "missing": "yellow",
    "unknown": "yellow",
}


@click.command(name="verify")
@click.argument("directory", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--only", multiple=True, metavar="GLOB", help="Only cases that match; repeatable.")
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option(
    "--trust-fill",
    is_flag=True,
    help="Execute DIRECTORY's fill.py although it is not the known one.",
)
def command(directory: Path, only: tuple[str, ...], as_json: bool, trust_fill: bool) -> int:
    """Compare the project with numbers of the official code.

    DIRECTORY is a golden folder, as tests/golden: numbers that the official code computed, and the
    rule that gives its weights. Exit status 1 if any case fails.
    """
    from styleclip_export.verify import verify
    from styleclip_export.verify.folder import Folder

    begun = time.monotonic()
    folder = Folder(directory, trust_fill)
    errors = Console(stderr=True)
    with errors.status("finding the cases …") as status:
        rows = list(verify(folder, only, lambda case: status.update(f"{case.name} …")))
    seconds = time.monotonic() - begun
    if as_json:
        click.echo(json.dumps(_summary(directory, rows, seconds), indent=1))
    else:
        _print(rows, seconds)
    return 1 if any(row.status == "fail" for row in rows) else 0


def _summary(directory: Path, rows: list[Row], seconds: float) -> dict:
    counts = Counter(row.status for row in rows)
    return {
        "folder": str(directory),
        "counts": {status: counts[status] for status in COLOURS},
        "seconds": round(seconds, 1),
        "peak_mib": _peak_mib(),
        "rows": [_finite(dataclasses.asdict(row)) for row in rows],
    }


def _finite(row: dict) -> dict:
    """NaN is no JSON: an error that is no number becomes null (its note says NaN)."""
    return row | {"error": row["error"] if row["error"] == row["error"] else None}


def _print(rows: list[Row], seconds: float) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    table = Table(box=None, pad_edge=False)
    for title in ("case", "quantity"):
        table.add_column(title, overflow="fold")
    for title in ("max. error", "bound"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    last = ""
    for row in rows:
        table.add_row(
            escape(row.case) if row.case != last else "",
            escape(row.quantity),
            _number(row.error),
            _number(row.bound),
            f"[{COLOURS[row.status]}]{row.status}[/]",
            escape(row.note),
        )
        last = row.case
    console.print(table)
    counts = Counter(row.status for row in rows)
    console.print(
        f"{counts['pass']} passed, {counts['fail']} failed, {counts['missing']} missing, "
        f"{counts['unknown']} unknown; {seconds:.0f} s, peak memory {_peak_mib():,} MiB",
        highlight=False,
    )
    ends: tuple[tuple[Status, str], ...] = (
        ("fail", "FAILED"),
        ("missing", "Described but not in the folder, so not compared"),
        ("unknown", "Unknown, so not compared"),
    )
    for status, what in ends:
        names = [f"{row.case} ({row.quantity})" for row in rows if row.status == status]
        if names:
            console.print(escape(f"{what}: {', '.join(names)}"), highlight=False)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1e}" if 0 < value < 0.01 else f"{value:.3g}"


def _peak_mib() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
