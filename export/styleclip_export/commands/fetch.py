"""`styleclip-export fetch`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from rich.console import Console

from styleclip_export.commands.progress import DownloadBars
from styleclip_export.errors import FetchError
from styleclip_export.fetch.fetcher import fetch_files
from styleclip_export.fetch.manifest import File, load_manifest
from styleclip_export.fetch.plan import plan_fetch


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
    "--accept-licenses",
    "--accept-licences",
    is_flag=True,
    help="Accept the license of each file without a question (for scripts).",
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
    accept_licenses: bool,
    allow_modified: bool,
    jobs: int,
) -> None:
    """Fetch the published checkpoints of DOMAIN (ffhq, or the path of a manifest).

    An interrupted download is resumed when the command is run again.
    """
    manifest = load_manifest(domain)
    target = folder or Path("weights") / manifest.domain
    output, errors = Console(soft_wrap=True, highlight=False), Console(stderr=True)
    with errors.status("checking what is there …"):
        plan = plan_fetch(manifest, target, sources, only, optional, allow_modified)
    for warning in plan.warnings:
        click.echo(f"styleclip-export: {warning}", err=True)
    for file in plan.present:
        output.print(f"{file.name}: already there, checked", markup=False)
    if plan.to_fetch:
        _show_licenses(plan.to_fetch, output)
        if not accept_licenses:
            _ask_to_accept()
    with DownloadBars(output, errors, sum(file.size for file in plan.missing)) as bars:
        fetch_files(plan, bars, jobs)
    output.print(f"{target}: complete", markup=False)


def _show_licenses(files: list[File], output: Console) -> None:
    for file in files:
        title = ("NON-COMMERCIAL: " if file.license.non_commercial else "") + file.license.title
        output.print(
            f"{file.name} ({file.size / 1e6:,.0f} MB): {file.description}\n"
            f"    {title}\n    {file.license.url}",
            markup=False,
        )


def _ask_to_accept() -> None:
    """Raise FetchError unless the user accepts the licenses."""
    if not sys.stdin.isatty():
        raise FetchError(
            "the licenses above must be accepted, and there is no terminal to ask at; read them "
            "and give --accept-licenses"
        )
    if not click.confirm("Do you accept these licenses?", default=False):
        raise FetchError("the licenses were not accepted; nothing was fetched")
