"""`styleclip batch`, and `styleclip edit` of a folder: all photos of one place into another."""

from __future__ import annotations

import contextlib
import sys
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from styleclip_client import faces
from styleclip_client.batch import job as jobs
from styleclip_client.batch.job import Job, Plan
from styleclip_client.batch.schedule import Scheduler
from styleclip_client.batch.stores import Bucket, Folder, store_of
from styleclip_client.batch.workers import Lane, Outcome, Reach, Threads, Work
from styleclip_client.commands import options
from styleclip_client.commands.edit_options import Wanted, edit_options
from styleclip_client.commands.options import DONE, EXIT_STATUS, SOME_FAILED
from styleclip_client.results import Status
from styleclip_contract import wire
from styleclip_contract.domain import Domain
from styleclip_contract.errors import ServerError, ServerUnavailable
from styleclip_contract.limits import FORMATS

CONCURRENCY = 4
_REASONS, _NAMES = 10, 5  # shown to people; --json tells all


@click.command(epilog=EXIT_STATUS)
@click.argument("photos", metavar="PHOTOS")
@edit_options
@options.face_options(several=True)
@options.picture_options
@click.option(
    "--format",
    type=click.Choice(FORMATS, case_sensitive=False),
    help="Of all pictures. [default: each photo's own, JPEG if that cannot be written]",
)
@click.option("-o", "--out", required=True, metavar="PLACE", help="Where the pictures go.")
@click.option("--overwrite", is_flag=True, help="Begin anew, and replace what is there.")
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
@options.servers_options(several=True)
def batch(
    reach: Reach,
    urls: list[str],
    photos: str,
    wanted: Wanted,
    align: bool | None,
    face: int,
    paste: bool,
    quality: int,
    mark: bool,
    keep_gps: bool,
    format: str | None,
    out: str,
    overwrite: bool,
    concurrency: int,
    ray: str | None,
    as_json: bool,
) -> int:
    """Edit all photos of PHOTOS, a folder with those below it, into the folder PLACE.

    Each picture has its photo's name; where the format is another, its suffix is added. The
    edits are given as for `styleclip edit`.

    A batch that was interrupted, or killed, goes on where it was when the same command is given
    again, and tries those again that failed. Nothing is replaced without --overwrite: where a
    file of a picture's name was there before the batch, that photo counts as failed. The file
    styleclip-batch.json in PLACE says what the batch is.

    With several servers each gets photos as quickly as it takes them, and what one could not
    do, because it was lost or restarted, goes to another. With --ray the machines of a cluster
    read, send and write the photos: PHOTOS and PLACE must be reachable from all of them, and may
    be URIs of an object store, as s3://bucket/photos.

    \b
    Examples:
      styleclip batch photos/ --preset smile -o smiling/
      styleclip batch photos/ --target "a sad face" --paste --format png -o sad/
      styleclip batch s3://here/photos --preset smile -o s3://here/smiling --ray auto \\
          --server gpu1:8001 --server gpu2:8001
    """
    settings = {
        "align": align,
        "face": face,
        "paste": paste,
        "quality": quality,
        "mark": mark,
        "keep_gps": keep_gps,
        "format": format,
    }
    return edit_all(
        reach, urls, photos, out, wanted, settings, overwrite, as_json, concurrency, ray
    )


def edit_all(
    reach: Reach,
    urls: Sequence[str],
    photos: str,
    out: str,
    wanted: Wanted,
    settings: dict[str, Any],
    overwrite: bool,
    as_json: bool,
    concurrency: int = CONCURRENCY,
    ray: str | None = None,
) -> int:
    """Edit what is at `photos` into `out` and tell about it; returns the exit status."""
    source, target = _place(photos, "PHOTOS"), _place(out, "--out")
    if isinstance(source, Folder):
        if not source.path.is_dir():
            raise click.BadParameter(f"there is no folder {photos}", param_hint="PHOTOS")
        if isinstance(target, Folder) and target.path.resolve() == source.path.resolve():
            raise click.BadParameter("it is the photos' own folder", param_hint="--out")
    if isinstance(target, Folder) and target.path.exists() and not target.path.is_dir():
        raise click.BadParameter(f"{out} is no folder", param_hint="--out")
    if settings["face"] == faces.ALL and not settings["paste"]:
        raise click.UsageError("--face all needs --paste where each photo gives one picture")

    with options.spinner("looking at the servers"):
        ready, domain, version = _ready(reach, urls)
    job = Job(str(source), domain.name, version, tuple(wanted.edits(domain)), **settings)
    with jobs.alone(target):
        with options.spinner("looking at the photos"):
            plan = jobs.plan(job, source, target, overwrite=overwrite)
        work = Work(job, source, target, plan.replace)
        report = _Report(plan)
        with contextlib.ExitStack() as stack:
            stack.callback(report.tell, target, as_json)
            if plan.todo:
                lanes = stack.enter_context(_lanes(ray, ready, reach, work, concurrency))
                _carry_out(Scheduler(lanes, concurrency), report)
    return SOME_FAILED if report.failed else DONE


def _place(text: str, hint: str) -> Folder | Bucket:
    try:
        return store_of(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=hint) from error


def _ready(reach: Reach, urls: Sequence[str]) -> tuple[list[str], Domain, str]:
    """The servers that answer, what they all draw, and the version of their generator."""
    found: dict[str, tuple[Domain, str]] = {}
    for url in urls:
        try:
            with reach.client(url) as client:
                client.domain()  # waits for a server that is being started
                found[url] = _serves(client.status())
        except ServerUnavailable as error:
            if len(urls) == 1:
                raise
            click.echo(f"styleclip: goes on without {url}: {error}", err=True)
    if not found:
        raise ServerUnavailable(f"none of {', '.join(urls)} answers: see `styleclip status`")
    kinds = {(domain.name, version) for domain, version in found.values()}
    if len(kinds) > 1:
        each = ", ".join(f"{url} has {d.name} version {v}" for url, (d, v) in found.items())
        raise ServerError(f"the servers differ ({each}): the pictures would, too")
    domain, version = next(iter(found.values()))
    return list(found), domain, version


def _serves(status: Status) -> tuple[Domain, str]:
    if status.domain is None or not status.ready:
        raise ServerUnavailable(f"{status.url} is not ready: see `styleclip status`")
    name = wire.STYLEGAN2.name
    versions = [m.version for m in status.models if m.name == name and m.state == "READY"]
    return status.domain, versions[-1]


@contextlib.contextmanager
def _lanes(
    ray: str | None, urls: Sequence[str], reach: Reach, work: Work, concurrency: int
) -> Iterator[Sequence[Lane]]:
    if ray is None:
        threads = [Threads(url, reach, work, concurrency) for url in urls]
        try:
            yield threads
        finally:
            for lane in threads:
                lane.close()
        return
    try:
        from styleclip_client.batch import on_ray
    except ImportError as error:
        raise click.UsageError(
            "--ray needs Ray, which is not installed: pip install 'styleclip-triton[ray]'"
        ) from error
    with on_ray.lanes(ray, urls, reach, work, concurrency) as lanes:
        yield lanes


def _carry_out(scheduler: Scheduler, report: _Report) -> None:
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
    before = len(plan.done) + len(plan.taken)
    with progress:
        bar = progress.add_task(
            "editing", total=before + len(plan.todo), completed=before, failed=""
        )
        for outcome in scheduler.run(plan.todo):
            report.outcomes.append(outcome)
            failed = f"[red]{len(report.failed)} failed" if report.failed else ""
            progress.update(bar, advance=1, failed=failed)


@dataclass
class _Report:
    """What came of a batch, told even when it is interrupted."""

    plan: Plan
    outcomes: list[Outcome] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    @property
    def edited(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if not outcome.error]

    @property
    def failed(self) -> list[tuple[str, str]]:
        """Photos and why."""
        taken = [
            (task.photo, f"FileExistsError: {task.out} was there before; --overwrite replaces it")
            for task in self.plan.taken
        ]
        return taken + [(o.task.photo, o.error) for o in self.outcomes if o.error]

    def tell(self, out: Folder | Bucket, as_json: bool) -> None:
        edited, failed, plan = self.edited, self.failed, self.plan
        left = len(plan.todo) - len(self.outcomes)
        seconds = time.perf_counter() - self.start
        content = {
            "out": str(out),
            "edited": [
                {
                    "photo": o.task.photo,
                    "picture": o.task.out,
                    "server": o.server,
                    "milliseconds": o.milliseconds,
                    "channels": o.channels,
                }
                for o in edited
            ],
            "done_before": [task.photo for task in plan.done],
            "failed": [
                {"photo": photo, "error": reason.partition(": ")[0], "message": reason}
                for photo, reason in failed
            ],
            "left": left,
            "seconds": round(seconds, 3),
        }
        lines = [f"{out}: {len(edited)} edited"]
        if plan.done:
            lines[0] += f", {len(plan.done)} done before"
        if failed:
            lines[0] += f", {len(failed)} failed"
        if left:
            lines[0] += f", {left} left: give the same command again to go on"
        if edited:
            lines[0] += f" ({seconds:.1f} s, {len(edited) / seconds:.1f} photos/s)"
        if not (plan.todo or plan.done or plan.taken):
            lines[0] += f": no photos there ({', '.join(jobs.PHOTOS)})"
        options.tell(as_json, content, "\n".join(lines + _reasons(failed)))


def _reasons(failed: Sequence[tuple[str, str]]) -> list[str]:
    """Why photos failed, the same reasons together."""
    photos = defaultdict(list)
    for photo, reason in failed:
        photos[reason.replace(photo, "PHOTO")].append(photo)
    ordered = sorted(photos.items(), key=lambda item: -len(item[1]))
    lines = []
    for reason, names in ordered[:_REASONS]:
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        lines += [f"  {reason}", f"    {', '.join(names[:_NAMES])}{more}"]
    if len(ordered) > _REASONS:
        lines.append(f"  and {len(ordered) - _REASONS} other reasons: --json tells all")
    return lines
