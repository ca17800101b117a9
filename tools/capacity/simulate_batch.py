"""Throughput of a batch over its servers: the real scheduler with simulated servers.

    .venv/bin/python -m tools.capacity.simulate_batch --server localhost:8001

Measures how long a real server takes for one photo at a time. Then
`styleclip_client.batch.scheduler` hands photos to 1 to 64 simulated servers, each of which does one
after the other in times drawn from the measured ones, in real time. `--ray` also measures how many
photos per second pass through Ray actors that do nothing.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table

from styleclip_client import Client
from styleclip_client.batch.job import Job, Task
from styleclip_client.batch.scheduler import Scheduler
from styleclip_client.batch.stores import Folder
from styleclip_client.batch.workers import PhotoEditor, TaskResult
from styleclip_client.connection_options import ConnectionOptions

SAMPLES = Path(__file__).resolve().parents[2] / "demo/samples"
COUNTS = (1, 2, 4, 8, 16, 32, 64)


class FutureTimer:
    """Completes futures at their times, in one thread."""

    def __init__(self) -> None:
        self._due: list[tuple[float, int, Future[TaskResult], TaskResult]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        threading.Thread(target=self._run, daemon=True).start()

    def at(self, moment: float, future: Future[TaskResult], outcome: TaskResult) -> None:
        with self._changed:
            heapq.heappush(self._due, (moment, next(self._order), future, outcome))
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    wait = self._due[0][0] - time.monotonic() if self._due else None
                    self._changed.wait(wait)
                _, _, future, outcome = heapq.heappop(self._due)
            future.set_result(outcome)


class SimulatedWorker:
    """A worker whose server does one photo after the other."""

    def __init__(self, url: str, timer: FutureTimer, seconds: Sequence[float], seed: int) -> None:
        self.url, self._timer, self._seconds = url, timer, seconds
        self._random, self._free_at = random.Random(seed), 0.0

    def submit(self, task: Task) -> Future[TaskResult]:
        future: Future[TaskResult] = Future()
        begin = max(time.monotonic(), self._free_at)
        self._free_at = begin + self._random.choice(self._seconds)
        self._timer.at(self._free_at, future, TaskResult(task, self.url))
        return future

    def close(self) -> None:
        pass


def measure_seconds(url: str, photos: int) -> list[float]:
    """Return the seconds of each `edit_photo`, one at a time, without the first."""
    samples = sorted(SAMPLES.glob("avatar-*.png"))
    seconds = []
    with Client(url) as client:
        edits = [preset.edit for preset in client.domain().presets]
        for number in range(photos + 1):
            start = time.perf_counter()
            client.edit_photo(samples[number % len(samples)], edits[number % len(edits)])
            seconds.append(time.perf_counter() - start)
    return seconds[1:]


def simulate(seconds: Sequence[float], servers: int, each: int, concurrency: int) -> float:
    """Return the photos per second of `servers`, with `each` photos for every one of them."""
    timer = FutureTimer()
    workers = [SimulatedWorker(f"server-{n}", timer, seconds, n) for n in range(servers)]
    tasks = [Task(f"{n}.jpg", f"{n}.jpg", "JPEG") for n in range(each * servers)]
    start = time.perf_counter()
    done = [result.task for result in Scheduler(workers, concurrency).run(tasks)]
    assert sorted(task.photo for task in done) == sorted(task.photo for task in tasks)
    return len(tasks) / (time.perf_counter() - start)


class _NoEditor(PhotoEditor):
    def edit(self, client: Client, task: Task) -> TaskResult:
        return TaskResult(task, client.url)


def measure_ray(workers: int, photos: int) -> float:
    """Return the photos per second through actors that do nothing."""
    from styleclip_client.batch import ray_workers

    here = Folder(Path())
    editor = _NoEditor(Job("", "", "", ()), here, here, False)
    tasks = [Task(f"{n}.jpg", f"{n}.jpg", "JPEG") for n in range(photos)]
    urls = [f"localhost:{n + 1}" for n in range(workers)]
    connection = ConnectionOptions(1, 0)
    with ray_workers.start_workers(ray_workers.LOCAL, urls, connection, editor, 4) as actors:
        list(Scheduler(actors, 4).run(tasks[:50]))
        start = time.perf_counter()
        list(Scheduler(actors, 4).run(tasks))
        return photos / (time.perf_counter() - start)


def plot(path: Path, rows: Sequence[tuple[int, float]], one: float) -> None:
    """Draw photos per second over servers, both axes doubling, as SVG."""
    width, height, left, low = 560, 360, 60, 310
    step = (width - left - 30) / (len(rows) - 1)
    across = {servers: left + step * n for n, (servers, _) in enumerate(rows)}
    unit = (low - 30) / (len(rows) - 1)

    def up(rate: float) -> float:
        return low - unit * math.log2(rate / one)

    ideal = " ".join(f"{x:.0f},{up(one * n):.0f}" for n, x in across.items())
    points = " ".join(f"{across[n]:.0f},{up(rate):.0f}" for n, rate in rows)
    marks = "".join(
        f'<circle cx="{across[n]:.0f}" cy="{up(rate):.0f}" r="4" fill="#5b4bc4"/>'
        f'<text x="{across[n]:.0f}" y="{up(rate) + 22:.0f}">{rate:.3g}</text>'
        f'<text x="{across[n]:.0f}" y="{low + 28}">{n}</text>'
        for n, rate in rows
    )
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="12" text-anchor="middle" fill="#444">'
        f'<rect width="{width}" height="{height}" fill="white"/>'
        f'<polyline points="{ideal}" fill="none" stroke="#bbb" stroke-dasharray="5 4"/>'
        f'<polyline points="{points}" fill="none" stroke="#5b4bc4" stroke-width="2"/>{marks}'
        f'<text x="{(left + width) / 2:.0f}" y="{height - 6}">servers (both axes double)</text>'
        f'<text transform="translate(18 {height / 2:.0f}) rotate(-90)">photos per second</text>'
        f'<text x="{left + 90}" y="24">dashed: one server, times their number</text></svg>\n'
    )


@click.command()
@click.option("--server", default="localhost:8001", show_default=True)
@click.option("--photos", default=40, show_default=True, help="To measure the server with.")
@click.option("--each", default=30, show_default=True, help="Simulated photos for each server.")
@click.option("--concurrency", default=4, show_default=True)
@click.option("--quicker", default=1.0, show_default=True, help="Divide the times by this.")
@click.option("--ray", is_flag=True, help="Measure Ray as well.")
@click.option("--out", type=click.Path(path_type=Path), help="Where to draw (SVG).")
def main(
    server: str,
    photos: int,
    each: int,
    concurrency: int,
    quicker: float,
    ray: bool,
    out: Path | None,
) -> None:
    seconds = [second / quicker for second in measure_seconds(server, photos)]
    mean = sum(seconds) / len(seconds)
    table = Table("servers", "photos/s", "of a straight line", box=None)
    rows = []
    for count in COUNTS:
        rate = simulate(seconds, count, each, concurrency)
        rows.append((count, rate))
        table.add_row(str(count), f"{rate:.4g}", f"{rate * mean / count:.0%}")
    console = Console()
    console.print(f"a photo takes {1000 * mean:.0f} ms ({photos} measured)", highlight=False)
    console.print(table)
    if ray:
        console.print(f"through 4 idle Ray actors: {measure_ray(4, 2000):.0f} photos/s")
    if out:
        plot(out, rows, 1 / mean)


if __name__ == "__main__":
    main()
