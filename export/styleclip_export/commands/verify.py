"""`styleclip-export verify`."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from styleclip_export.commands.progress import peak_memory_mib

if TYPE_CHECKING:
    from styleclip_export.verify.report import Row, Status

COLORS: dict[Status, str] = {
    "pass": "green",
    "fail": "bold red",
    "missing": "yellow",
    "unknown": "yellow",
}
HEADINGS: dict[Status, str] = {
    "fail": "FAILED",
    "missing": "Described but not in the folder, so not compared",
    "unknown": "Unknown, so not compared",
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

    DIRECTORY is a golden folder, such as tests/golden: numbers computed by the official code, and
    the rule that generates its weights. Exit status 1 if any case fails.
    """
    from styleclip_export.verify.folder import Folder
    from styleclip_export.verify.runner import verify

    start = time.monotonic()
    folder = Folder(directory, trust_fill)
    errors = Console(stderr=True)
    with errors.status("finding the cases …") as status:
        rows = list(verify(folder, only, lambda case: status.update(f"{case.name} …")))
    seconds = time.monotonic() - start
    if as_json:
        click.echo(json.dumps(_summary(directory, rows, seconds), indent=1))
    else:
        _print(rows, seconds)
    return 1 if any(row.status == "fail" for row in rows) else 0


def _summary(directory: Path, rows: list[Row], seconds: float) -> dict:
    counts = Counter(row.status for row in rows)
    return {
        "folder": str(directory),
        "counts": {status: counts[status] for status in COLORS},
        "seconds": round(seconds, 1),
        "peak_mib": int(peak_memory_mib()),
        "rows": [_finite(dataclasses.asdict(row)) for row in rows],
    }


def _finite(row: dict) -> dict:
    """Replace an error of NaN, which is not JSON, by null; the row's note says NaN."""
    return row | {"error": row["error"] if row["error"] == row["error"] else None}


def _print(rows: list[Row], seconds: float) -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=140)
    console.print(_table(rows))
    counts = Counter(row.status for row in rows)
    console.print(
        f"{counts['pass']} passed, {counts['fail']} failed, {counts['missing']} missing, "
        f"{counts['unknown']} unknown; {seconds:.0f} s, peak memory {int(peak_memory_mib()):,} MiB",
        highlight=False,
    )
    for status, heading in HEADINGS.items():
        names = [f"{row.case} ({row.quantity})" for row in rows if row.status == status]
        if names:
            console.print(escape(f"{heading}: {', '.join(names)}"), highlight=False)


def _table(rows: list[Row]) -> Table:
    table = Table(box=None, pad_edge=False)
    for title in ("case", "quantity"):
        table.add_column(title, overflow="fold")
    for title in ("max. error", "bound"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    previous_case = ""
    for row in rows:
        table.add_row(
            escape(row.case) if row.case != previous_case else "",
            escape(row.quantity),
            _number(row.error),
            _number(row.bound),
            f"[{COLORS[row.status]}]{row.status}[/]",
            escape(row.note),
        )
        previous_case = row.case
    return table


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.1e}" if 0 < value < 0.01 else f"{value:.3g}"
