"""`styleclip-export fetch`."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from styleclip_export.errors import FetchError
from styleclip_export.fetch.manifest import load_manifest
from styleclip_export.fetch.plan import Plan, carry_out, licences, make_plan


@click.command(name="fetch")
@click.argument("domain", default="ffhq")
@click.option(
    "--to",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the files go.  [default: weights/DOMAIN]",
)
@click.option(
    "--from",
    "sources",
    multiple=True,
    type=click.Path(exists=True, path_type=Path),
    help="A folder (or file) with files that you have, under any names; repeatable.",
)
@click.option("--only", multiple=True, metavar="NAME", help="Only this file; repeatable.")
@click.option("--optional", is_flag=True, help="Also the files that serving does not need.")
@click.option(
    "--accept-licences",
    is_flag=True,
    help="Accept the licence of each file without being asked (for scripts).",
)
@click.option(
    "--allow-modified",
    is_flag=True,
    help="With --from: take a file of the right name although its SHA-256 is another one.",
)
@click.option(
    "--jobs", type=click.IntRange(1, 16), default=4, show_default=True, help="Files at a time."
)
def command(
    domain: str,
    folder: Path | None,
    sources: tuple[Path, ...],
    only: tuple[str, ...],
    optional: bool,
    accept_licences: bool,
    allow_modified: bool,
    jobs: int,
) -> None:
    """Fetch the published checkpoints of DOMAIN (ffhq, or the path of a manifest).

    Interrupted downloads go on where they stopped when the command is run again.
    """
    manifest = load_manifest(domain)
    target = folder or Path("weights") / manifest.domain
    console, errors = Console(soft_wrap=True, highlight=False), Console(stderr=True)
    with errors.status("checking what is there …"):
        plan = make_plan(manifest, target, sources, only, optional, allow_modified)
    for line in plan.complaints:
        click.echo(f"styleclip-export: {line}", err=True)
    for file in plan.present:
        console.print(f"{file.name}: already there, checked", markup=False)
    if plan.wanted:
        _ask(plan, accept_licences, console)
        with Bars(console, errors) as bars:
            carry_out(plan, bars, jobs)
    else:
        carry_out(plan, Bars(console, errors), jobs)
    console.print(f"{target}: complete", markup=False)


def _ask(plan: Plan, accepted: bool, console: Console) -> None:
    """Prints each file's licence; goes on only with the user's word."""
    for file, line in licences(plan.wanted):
        console.print(
            f"{file.name} ({file.size / 1e6:,.0f} MB): {file.what}\n"
            f"    {line}\n    {file.licence.url}",
            markup=False,
        )
    if accepted:
        return
    if not sys.stdin.isatty():
        raise FetchError(
            "the licences above must be accepted, and there is no terminal to ask at; read them "
            "and give --accept-licences"
        )
    if not click.confirm("Do you accept these licences?", default=False):
        raise FetchError("the licences were not accepted; nothing was fetched")


class Bars:
    """A bar for each download (on a terminal only), and lines above them."""

    def __init__(self, console: Console, errors: Console) -> None:
        self._console = console
        self._progress = Progress(
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

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def moved(self, name: str, done: int, total: int | None) -> None:
        """Moves the bar of a file."""
        with self._lock:
            if name not in self._tasks:
                self._tasks[name] = self._progress.add_task(escape(name), total=total)
        self._progress.update(self._tasks[name], completed=done, total=total)

    def say(self, line: str) -> None:
        """Prints a line."""
        self._console.print(line, markup=False)
