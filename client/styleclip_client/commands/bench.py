"""`styleclip bench`: latency and throughput of calls as a client sees them."""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from styleclip_client.client import Client
from styleclip_client.commands import options
from styleclip_client.commands.options import DONE, EXIT_STATUS, SOME_FAILED
from styleclip_contract import wire
from styleclip_contract.domain import Domain
from styleclip_contract.edits import Edit
from styleclip_contract.errors import StyleclipError

CALLS = tuple(model.name for model in wire.ENSEMBLES)
_SAMPLES = Path("demo/samples")  # of a source tree


@dataclass(frozen=True)
class Measurement:
    """One call at one concurrency; percentiles are milliseconds of answered calls."""

    call: str
    concurrency: int
    answered: int
    failed: int
    per_second: float
    p50: float
    p95: float
    p99: float
    longest: float
    failure: str = ""


@click.command(epilog=EXIT_STATUS)
@click.argument("photos", nargs=-1, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--call", "calls", multiple=True, type=click.Choice(CALLS), default=CALLS,
    help="What to measure. Repeatable. [default: all]",
)  # fmt: skip
@click.option(
    "--concurrency",
    multiple=True,
    type=click.IntRange(1, 256),
    default=(1, 4),
    show_default=True,
    help="Calls at once. Repeatable.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.1, 3600),
    default=5.0,
    show_default=True,
    help="For each measurement.",
)
@options.face_options
@options.json_option
@options.server_option
def bench(
    client: Client,
    photos: tuple[Path, ...],
    calls: tuple[str, ...],
    concurrency: tuple[int, ...],
    seconds: float,
    align: bool | None,
    face: int,
    as_json: bool,
) -> int:
    """Measure latency and throughput of each call from here.

    The calls rotate over PHOTOS (default: the sample images of a source tree) and over the domain's
    presets. `edit` is what a slider does: its photos are inverted before. Times are of complete
    calls, the network included, after one warm-up call of each kind; images are JPEG and are not
    decoded. `make bench` measures more, on the server's machine.
    """
    files = photos or tuple(sorted(_SAMPLES.glob("*.png")))
    if not files:
        raise click.UsageError("name some photos to measure with")
    domain = client.domain()
    edits = [preset.edit for preset in domain.presets] or [domain.edit("a smiling face")]
    data = [file.read_bytes() for file in files]
    settings = {"align": align, "face": face}
    console = Console(stderr=True)
    measurements = []
    for name in calls:
        with console.status(f"preparing {name}"):
            functions = _calls(client, name, data, edits, settings)
            functions[0]()
        for count in concurrency:
            with console.status(f"{name}, {count} at once, {seconds:g} s"):
                measurements.append(_measure(name, functions, count, seconds))
    if as_json:
        options.print_result(True, _content(client, domain, files, seconds, measurements), "")
    else:
        _print_table(client, domain, files, measurements)
    return SOME_FAILED if any(row.failed for row in measurements) else DONE


def _calls(
    client: Client,
    name: str,
    photos: Sequence[bytes],
    edits: Sequence[Edit],
    settings: dict[str, Any],
) -> list[Callable[[], object]]:
    """Return a call for every photo with every edit, or for every photo with `invert`."""
    if name == "invert":
        return [partial(client.invert, photo, **settings) for photo in photos]
    if name == "edit":
        inverted = [client.invert(photo, **settings) for photo in photos]
        return [partial(client.edit, each, edit) for edit in edits for each in inverted]
    return [
        partial(client.edit_photo, photo, edit, **settings) for edit in edits for photo in photos
    ]


def _measure(
    name: str, calls: Sequence[Callable[[], object]], concurrency: int, seconds: float
) -> Measurement:
    """Call for `seconds` from `concurrency` threads, each without a pause and at least once."""
    rounds = itertools.cycle(calls)
    start = time.perf_counter()
    end = start + seconds

    def work(_: int) -> tuple[list[float], list[str]]:
        times, failures = [], []
        while True:
            begin = time.perf_counter()
            try:
                next(rounds)()
            except StyleclipError as error:
                failures.append(error.to_wire())
            else:
                times.append(1000 * (time.perf_counter() - begin))
            if time.perf_counter() >= end:
                return times, failures

    with ThreadPoolExecutor(concurrency) as pool:
        parts = list(pool.map(work, range(concurrency)))
    elapsed = time.perf_counter() - start
    times = sorted(time for part, _ in parts for time in part)
    failures = [failure for _, part in parts for failure in part]
    # Doubled, so that a single time has quantiles too.
    cuts = statistics.quantiles(times * 2, n=100, method="inclusive") if times else [0.0] * 99
    p50, p95, p99 = (round(cuts[at - 1], 1) for at in (50, 95, 99))
    return Measurement(
        call=name,
        concurrency=concurrency,
        answered=len(times),
        failed=len(failures),
        per_second=round(len(times) / elapsed, 2),
        p50=p50,
        p95=p95,
        p99=p99,
        longest=round(times[-1], 1) if times else 0.0,
        failure=failures[-1] if failures else "",
    )


def _content(
    client: Client,
    domain: Domain,
    files: Sequence[Path],
    seconds: float,
    measurements: Sequence[Measurement],
) -> dict[str, Any]:
    return {
        "server": client.url,
        "domain": domain.name,
        "client": {"python": platform.python_version(), "cores": os.cpu_count()},
        "photos": len(files),
        "seconds": seconds,
        "measured": [asdict(row) for row in measurements],
    }


def _print_table(
    client: Client, domain: Domain, files: Sequence[Path], measurements: Sequence[Measurement]
) -> None:
    console = Console()
    console.print(
        f"{client.url}, domain {domain.name}, {len(files)} photos; milliseconds per call",
        highlight=False,
    )
    table = Table("call", box=None, pad_edge=False)
    for title in ("at once", "answered", "failed", "per second", "p50", "p95", "p99", "longest"):
        table.add_column(title, justify="right")
    for row in measurements:
        numbers = (row.per_second, row.p50, row.p95, row.p99, row.longest)
        table.add_row(
            row.call,
            str(row.concurrency),
            str(row.answered),
            f"[red]{row.failed}[/]" if row.failed else "0",
            *(f"{number:.1f}" for number in numbers),
        )
    console.print(table)
    for row in measurements:
        if row.failure:
            console.print(f"{row.call}: {row.failure}", highlight=False, markup=False)
