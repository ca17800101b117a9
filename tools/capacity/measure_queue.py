"""How long edits wait in the server's queues at several loads, to set the autoscaler's target.

Measures the highest rate of the server, then sends edits at random times (a Poisson process, as
many independent users do) at fractions of that rate. Waits come from the metrics that Prometheus
reads. Writes out/queue/<time>.json and prints a table; docs/kubernetes.md explains it.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import statistics
import sys
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import psutil
from rich.console import Console
from rich.table import Table

from styleclip_client import AsyncClient, Client, Edit, StyleclipError
from styleclip_contract import wire

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "queue"
ENSEMBLES = {model.name for model in wire.ENSEMBLES}
_SAMPLE = re.compile(r'^(\w+)\{.*?model="(\w+)".*?\} (\S+)$', re.MULTILINE)


def read_queue_wait(metrics_url: str) -> tuple[float, float]:
    """Return the seconds spent in all queues and the number of edits since the server started."""
    with urllib.request.urlopen(metrics_url, timeout=10) as response:
        samples = _SAMPLE.findall(response.read().decode())
    queue = sum(float(v) for name, _, v in samples if name == "nv_inference_queue_duration_us")
    edits = sum(
        float(v)
        for name, model, v in samples
        if name == "nv_inference_request_success" and model in ENSEMBLES
    )
    return queue / 1e6, edits


class OtherPrograms:
    """The share of the machine that other programs use; a high one invalidates a measurement."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._all, self._own = self._cpu_seconds()

    def share(self) -> float:
        """Return their share of all cores since this object was created."""
        total, own = self._cpu_seconds()
        cores = psutil.cpu_count() or 1
        others = (total - self._all) - (own - self._own)
        return max(others, 0.0) / cores / (time.monotonic() - self._start)

    @staticmethod
    def _cpu_seconds() -> tuple[float, float]:
        """Return the CPU seconds of all processes, and of this one with its children."""
        times, this = psutil.cpu_times(), psutil.Process()
        own = [process.cpu_times() for process in (this, *this.children(recursive=True))]
        total = times.user + times.nice + times.system
        return total, sum(process.user + process.system for process in own)


class EditLoad:
    """Edits with a random photo, preset and strength."""

    def __init__(self, client: AsyncClient, presets: list[Edit], photos: list[bytes]) -> None:
        self._client, self._presets, self._photos = client, presets, photos
        self._random = random.Random(1)

    async def edit(self) -> float | None:
        """Run one edit; return its seconds, or None when it failed."""
        edit = replace(self._random.choice(self._presets), strength=self._random.uniform(2, 8))
        start = time.monotonic()
        try:
            await self._client.edit_photo(self._random.choice(self._photos), edit)
        except StyleclipError:
            return None
        return time.monotonic() - start

    async def run_closed_loop(self, concurrency: int, seconds: float) -> list[float | None]:
        """Run `concurrency` users, each of whom sends an edit when the last one is answered."""
        end = time.monotonic() + seconds

        async def user() -> list[float | None]:
            return [await self.edit() for _ in iter(lambda: time.monotonic() < end, False)]

        users = await asyncio.gather(*(user() for _ in range(concurrency)))
        return [seconds for times in users for seconds in times]

    async def run_open_loop(self, rate: float, seconds: float) -> list[float | None]:
        """Send edits at random times, `rate` per second on average."""
        tasks, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            tasks.append(asyncio.create_task(self.edit()))
            await asyncio.sleep(self._random.expovariate(rate))
        return list(await asyncio.gather(*tasks))


async def measure(server: str, metrics_url: str, fractions: list[float], seconds: float,
                  console: Console) -> list[dict[str, float]]:  # fmt: skip
    """Return a row for each fraction of the highest rate."""
    with Client(server) as client:
        presets = [preset.edit for preset in client.domain().presets]
    photos = [path.read_bytes() for path in sorted((ROOT / "demo/samples").glob("avatar-*.png"))]
    rows = []
    async with AsyncClient(server, timeout=60, retries=0) as client:
        load = EditLoad(client, presets, photos)
        for preset in presets:  # caches the text embeddings, as in service
            await client.direction(preset)
        await load.run_closed_loop(2, seconds / 2)
        single = await load.run_closed_loop(1, seconds / 2)
        start, others = time.monotonic(), OtherPrograms()
        times = [s for s in await load.run_closed_loop(4, seconds) if s is not None]
        highest = len(times) / (time.monotonic() - start)
        median = statistics.median(seconds for seconds in single if seconds)
        console.print(
            f"one user {median * 1000:.0f} ms, at most {highest:.2f} edits/s, "
            f"other programs {others.share():.0%}"
        )
        for fraction in fractions:
            before, start, others = read_queue_wait(metrics_url), time.monotonic(), OtherPrograms()
            answers = await load.run_open_loop(fraction * highest, seconds)
            after, seconds_taken = read_queue_wait(metrics_url), time.monotonic() - start
            times = sorted(s for s in answers if s is not None)
            rows.append(
                {
                    "load": fraction,
                    "offered": len(answers) / seconds,
                    "done": len(times) / seconds_taken,
                    "queue_ms": 1000 * (after[0] - before[0]) / (after[1] - before[1]),
                    "failed": len(answers) - len(times),
                    "others %": 100 * others.share(),
                    **{f"p{p}": 1000 * times[min(p * len(times) // 100, len(times) - 1)]
                       for p in (50, 95, 99)},
                }
            )  # fmt: skip
    return rows


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--server", help="gRPC address of a running server; without it one is started.")
@click.option("--metrics", help="Its metrics, such as http://localhost:8002/metrics.")
@click.option(
    "--loads", default="0.3,0.5,0.7,0.8,0.9,1.0,1.2", help="Fractions of the highest rate."
)
@click.option("--seconds", default=30.0, help="Length of each load.")
def main(server: str | None, metrics: str | None, loads: str, seconds: float) -> None:
    """Measure how long edits wait at several loads."""
    if bool(server) != bool(metrics):
        raise click.UsageError("--server and --metrics are given together")
    console = Console(highlight=False)
    with ExitStack() as stack:
        if server is None:
            from styleclip_server.serving.configs import QUEUE_LENGTH
            from styleclip_server.serving.options import Options
            from styleclip_server.serving.supervisor import running_server

            # As the manifests set it, so that requests wait in queues.
            options = Options(domain="avatars", max_concurrent=QUEUE_LENGTH["cpu"] - 1)
            running = stack.enter_context(running_server(options, canary=0))
            server, metrics = running.grpc_url, running.metrics_url
        assert server and metrics
        fractions = [float(fraction) for fraction in loads.split(",")]
        rows = asyncio.run(measure(server, metrics, fractions, seconds, console))
    table = Table(box=None)
    for name in rows[0]:
        table.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        table.add_row(*(f"{value:.3g}" if value < 10 else f"{value:.0f}" for value in row.values()))
    console.print(table)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    _write(path, rows)
    console.print(f"written: {path.relative_to(ROOT)}")


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
