"""`styleclip batch`, and `styleclip edit` of a folder: all photos of one place into another."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from styleclip_client import faces
from styleclip_client.batch.job import BatchPlan, Job, lock_output, plan_batch
from styleclip_client.batch.scheduler import Scheduler
from styleclip_client.batch.stores import Bucket, Folder, open_store
from styleclip_client.batch.workers import (
    PhotoEditor,
    TaskResult,
    ThreadWorker,
    Worker,
)
from styleclip_client.commands import options
from styleclip_client.commands.edit_options import EditOptions, edit_options
from styleclip_client.commands.options import DONE, EXIT_STATUS, SOME_FAILED, PhotoOptions
from styleclip_client.connection_options import ConnectionOptions
from styleclip_client.images import PHOTO_SUFFIXES
from styleclip_client.results import Status
from styleclip_contract.domain import Domain
from styleclip_contract.errors import ServerError, ServerUnavailable
from styleclip_contract.limits import FORMATS

CONCURRENCY = 4
_MAX_REASONS, _MAX_NAMES, _MAX_UNCLEAR = 10, 5, 10  # printed; --json has all


@click.command(epilog=EXIT_STATUS)
@click.argument("photos", metavar="PHOTOS")
@edit_options
@options.photo_options
@click.option(
    "--format",
    type=click.Choice(FORMATS, case_sensitive=False),
    help="Of all images. [default: each photo's own, JPEG if that cannot be written]",
)
@click.option("-o", "--out", required=True, metavar="PLACE", help="Where the images go.")
@click.option("--overwrite", is_flag=True, help="Start over, and replace what is there.")
@click.option(
    "--concurrency",
    type=click.IntRange(1, 256),
    default=CONCURRENCY,
    show_default=True,
    help="Photos at once, for each server.",
)
@click.option(
    "--ray",
    metavar="ADDRESS",
    help="Let a Ray cluster do it: auto, HOST:PORT, ray://HOST:10001, or local.",
)
@options.json_option
@options.servers_option(several=True)
def batch(
    connection: ConnectionOptions,
    urls: list[str],
    photos: str,
    edit_options: EditOptions,
    photo_options: PhotoOptions,
    format: str | None,
    out: str,
    overwrite: bool,
    concurrency: int,
    ray: str | None,
    as_json: bool,
) -> int:
    """Edit all photos of PHOTOS, a folder with its subfolders, into the folder PLACE.

    Each image has its photo's name; where the format is another, its suffix is added. The
    edits are given as for `styleclip edit`.

    The same command again resumes a batch that was interrupted or killed, and retries what
    failed. Nothing is replaced without --overwrite: where a file with an image's name was there
    before the batch, that photo counts as failed. The file styleclip-batch.json in PLACE says
    what the batch is.

    Several servers get photos as fast as each edits them; a photo that fails on an unreachable or
    restarting server moves to another. With --ray the machines of a cluster read, send and write
    the photos: PHOTOS and PLACE must be reachable from all of them, and may be URIs of an object
    store, such as s3://bucket/photos.

    \b
    Examples:
      styleclip batch photos/ --preset smile -o smiling/
      styleclip batch photos/ --target "a sad face" --paste --format png -o sad/
      styleclip batch s3://here/photos --preset smile -o s3://here/smiling --ray auto \\
          --server gpu1:8001 --server gpu2:8001
    """
    return edit_all(
        connection, urls, photos, out, edit_options, photo_options, format,
        overwrite=overwrite, as_json=as_json, concurrency=concurrency, ray=ray,
    )  # fmt: skip


def edit_all(
    connection: ConnectionOptions,
    urls: Sequence[str],
    photos: str,
    out: str,
    edit_options: EditOptions,
    photo_options: PhotoOptions,
    format: str | None = None,
    *,
    overwrite: bool,
    as_json: bool,
    concurrency: int = CONCURRENCY,
    ray: str | None = None,
) -> int:
    """Edit the photos of `photos` into `out` and report; returns the exit status."""
    source, target = _open_places(photos, out)
    if photo_options.face == faces.ALL and not photo_options.paste:
        raise click.UsageError("--face all needs --paste where each photo gives one image")
    with options.spinner("asking the servers"):
        ready, domain, version = _ready_servers(connection, urls)
    edits = tuple(edit_options.resolve(domain))
    settings = {**asdict(photo_options), "fidelity": domain.fidelity(photo_options.fidelity)}
    job = Job(str(source), domain.name, version, edits, format=format, **settings)
    with lock_output(target):
        with options.spinner("listing the photos"):
            plan = plan_batch(job, source, target, overwrite=overwrite)
        editor = PhotoEditor(job, source, target, plan.replace)
        report = _Report(plan)
        with contextlib.ExitStack() as stack:
            stack.callback(report.print, target, as_json)  # also when it is interrupted
            if plan.todo:
                workers = stack.enter_context(
                    _start_workers(ray, ready, connection, editor, concurrency)
                )
                _run(Scheduler(workers, concurrency), report)
    return SOME_FAILED if report.failed else DONE


def _open_places(photos: str, out: str) -> tuple[Folder | Bucket, Folder | Bucket]:
    source, target = _open_place(photos, "PHOTOS"), _open_place(out, "--out")
    if isinstance(source, Folder):
        if not source.path.is_dir():
            raise click.BadParameter(f"there is no folder {photos}", param_hint="PHOTOS")
        if isinstance(target, Folder) and target.path.resolve() == source.path.resolve():
            raise click.BadParameter("it is the folder of the photos", param_hint="--out")
    if isinstance(target, Folder) and target.path.exists() and not target.path.is_dir():
        raise click.BadParameter(f"{out} is not a folder", param_hint="--out")
    return source, target


def _open_place(place: str, hint: str) -> Folder | Bucket:
    try:
        return open_store(place)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=hint) from error


def _ready_servers(
    connection: ConnectionOptions, urls: Sequence[str]
) -> tuple[list[str], Domain, str]:
    """Return the servers that answer, their common domain, and their generator's version."""
    servers: dict[str, tuple[Domain, str]] = {}
    for url in urls:
        try:
            with connection.client(url) as client:
                client.domain()  # waits for a server that is starting
                servers[url] = _domain_and_version(client.status())
        except ServerUnavailable as error:
            if len(urls) == 1:
                raise
            click.echo(f"styleclip: goes on without {url}: {error}", err=True)
    if not servers:
        raise ServerUnavailable(f"none of {', '.join(urls)} answers: see `styleclip status`")
    if len({(domain.name, version) for domain, version in servers.values()}) > 1:
        each = ", ".join(f"{url} has {d.name} version {v}" for url, (d, v) in servers.items())
        raise ServerError(f"the servers differ ({each}): so would the images")
    domain, version = next(iter(servers.values()))
    return list(servers), domain, version


def _domain_and_version(status: Status) -> tuple[Domain, str]:
    if status.domain is None or not status.ready:
        raise ServerUnavailable(f"{status.url} is not ready: see `styleclip status`")
    return status.domain, status.generator_version


@contextlib.contextmanager
def _start_workers(
    ray: str | None,
    urls: Sequence[str],
    connection: ConnectionOptions,
    editor: PhotoEditor,
    concurrency: int,
) -> Iterator[Sequence[Worker]]:
    if ray is None:
        workers = [ThreadWorker(url, connection, editor, concurrency) for url in urls]
        try:
            yield workers
        finally:
            for worker in workers:
                worker.close()
        return
    try:
        from styleclip_client.batch import ray_workers
    except ImportError as error:
        raise click.UsageError(
            "--ray needs Ray, which is not installed: pip install 'styleclip-triton[ray]'"
        ) from error
    with ray_workers.start_workers(ray, urls, connection, editor, concurrency) as actors:
        yield actors


def _run(scheduler: Scheduler, report: _Report) -> None:
    """Run the tasks of the plan, with a progress bar on a terminal."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[failed]}"),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
        transient=True,
    )
    plan, report.start = report.plan, time.perf_counter()
    completed = len(plan.done) + len(plan.blocked)
    total = completed + len(plan.todo)
    with progress:
        bar = progress.add_task("editing", total=total, completed=completed, failed="")
        for result in scheduler.run(plan.todo):
            report.results.append(result)
            failed = f"[red]{len(report.failed)} failed" if report.failed else ""
            progress.update(bar, advance=1, failed=failed)


@dataclass
class _Report:
    """The results of a batch so far."""

    plan: BatchPlan
    results: list[TaskResult] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    @property
    def edited(self) -> list[TaskResult]:
        return [result for result in self.results if not result.error]

    @property
    def failed(self) -> list[tuple[str, str]]:
        """Photos and the errors that they failed with."""
        blocked = [
            (task.photo, f"FileExistsError: {task.out} already exists; --overwrite replaces it")
            for task in self.plan.blocked
        ]
        return blocked + [(r.task.photo, r.error) for r in self.results if r.error]

    @property
    def left(self) -> int:
        return len(self.plan.todo) - len(self.results)

    def print(self, out: Folder | Bucket, as_json: bool) -> None:
        seconds = time.perf_counter() - self.start
        lines = [self._summary(out, seconds), *_reasons(self.failed)]
        options.print_result(as_json, self._content(out, seconds), "\n".join(lines))
        for line in _unclear_lines(self.edited):
            click.echo(f"styleclip: {line}", err=True)

    def _content(self, out: Folder | Bucket, seconds: float) -> dict[str, Any]:
        return {
            "out": str(out),
            "edited": [
                {
                    "photo": result.task.photo,
                    "picture": result.task.out,
                    "server": result.server,
                    "milliseconds": result.milliseconds,
                    "channels": result.channels,
                    "unclear": [{"face": i, "score": f.score} for i, f in result.unclear.items()],
                }
                for result in self.edited
            ],
            "done_before": [task.photo for task in self.plan.done],
            "failed": [
                {"photo": photo, "error": reason.partition(": ")[0], "message": reason}
                for photo, reason in self.failed
            ],
            "left": self.left,
            "seconds": round(seconds, 3),
        }

    def _summary(self, out: Folder | Bucket, seconds: float) -> str:
        plan, edited, failed = self.plan, len(self.edited), len(self.failed)
        parts = [f"{out}: {edited} edited"]
        if plan.done:
            parts.append(f"{len(plan.done)} done before")
        if failed:
            parts.append(f"{failed} failed")
        if self.left:
            parts.append(f"{self.left} left: run the same command again to resume")
        text = ", ".join(parts)
        if edited:
            text += f" ({seconds:.1f} s, {edited / seconds:.1f} photos/s)"
        if not (plan.todo or plan.done or plan.blocked):
            text += f": no photos there ({', '.join(PHOTO_SUFFIXES)})"
        return text


def _unclear_lines(edited: Sequence[TaskResult]) -> list[str]:
    """Return a line for each face that `--face all` left out."""
    lines = [
        f"{result.task.photo}: {options.unclear_text(index, face)}"
        for result in edited
        for index, face in result.unclear.items()
    ]
    if len(lines) > _MAX_UNCLEAR:
        more = len(lines) - _MAX_UNCLEAR
        lines[_MAX_UNCLEAR:] = [f"and {more} other faces that may be none: --json has all"]
    return lines


def _reasons(failed: Sequence[tuple[str, str]]) -> list[str]:
    """Return lines with each error and the photos that failed with it, the most frequent first."""
    photos = defaultdict(list)
    for photo, reason in failed:
        photos[reason.replace(photo, "PHOTO")].append(photo)
    ordered = sorted(photos.items(), key=lambda item: -len(item[1]))
    lines = []
    for reason, names in ordered[:_MAX_REASONS]:
        more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
        lines += [f"  {reason}", f"    {', '.join(names[:_MAX_NAMES])}{more}"]
    if len(ordered) > _MAX_REASONS:
        lines.append(f"  and {len(ordered) - _MAX_REASONS} other errors: --json has all")
    return lines
