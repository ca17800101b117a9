"""How long edits wait in the server's queues at several loads: the autoscaler's target comes of it.

Finds how many edits a second the server can do at most, then sends edits at random times (as many
users do) at parts of that rate. Waits are read where Prometheus reads them. Writes
out/queue/<time>.json and prints a table; docs/kubernetes.md says how to read it.
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

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "queue"
ENSEMBLES = {"edit", "edit_photo", "invert"}
_SAMPLE = re.compile(r'^(\w+)\{.*?model="(\w+)".*?\} (\S+)$', re.MULTILINE)


def waited(metrics_url: str) -> tuple[float, float]:
    """Seconds waited in all queues, and edits done, since the server started."""
    with urllib.request.urlopen(metrics_url, timeout=10) as answer:
        samples = _SAMPLE.findall(answer.read().decode())
    queue = sum(float(v) for name, _, v in samples if name == "nv_inference_queue_duration_us")
    edits = sum(
        float(v)
        for name, model, v in samples
        if name == "nv_inference_request_success" and model in ENSEMBLES
    )
    return queue / 1e6, edits


class Others:
    """How much of the machine other programs take: much of it spoils a measurement."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._busy, self._ours = self._now()

    def share(self) -> float:
        """Their part of all cores since this object was made."""
        busy, ours = self._now()
        cores = psutil.cpu_count() or 1
        taken = (busy - self._busy) - (ours - self._ours)
        return max(taken, 0.0) / cores / (time.monotonic() - self._start)

    @staticmethod
    def _now() -> tuple[float, float]:
        times, us = psutil.cpu_times(), psutil.Process()
        ours = [process.cpu_times() for process in (us, *us.children(recursive=True))]
        busy = times.user + times.nice + times.system
        return busy, sum(each.user + each.system for each in ours)


class Load:
    """Edits of real pictures, each another: photo, preset and strength by chance."""

    def __init__(self, client: AsyncClient, presets: list[Edit], photos: list[bytes]) -> None:
        self._client, self._presets, self._photos = client, presets, photos
        self._random = random.Random(1)

    async def edit(self) -> float | None:
        """Seconds that one edit took; None when it failed."""
        edit = replace(self._random.choice(self._presets), strength=self._random.uniform(2, 8))
        start = time.monotonic()
        try:
            await self._client.edit_photo(self._random.choice(self._photos), edit)
        except StyleclipError:
            return None
        return time.monotonic() - start

    async def always(self, at_once: int, seconds: float) -> list[float | None]:
        """What `at_once` users get who never pause."""
        end = time.monotonic() + seconds

        async def user() -> list[float | None]:
            return [await self.edit() for _ in iter(lambda: time.monotonic() < end, False)]

        users = await asyncio.gather(*(user() for _ in range(at_once)))
        return [seconds for answers in users for seconds in answers]

    async def at_random(self, rate: float, seconds: float) -> list[float | None]:
        """What users get who come by chance, `rate` a second (a Poisson process)."""
        tasks, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            tasks.append(asyncio.create_task(self.edit()))
            await asyncio.sleep(self._random.expovariate(rate))
        return list(await asyncio.gather(*tasks))


async def measure(server: str, metrics_url: str, parts: list[float], seconds: float,
                  told: Console) -> list[dict[str, float]]:  # fmt: skip
    """A row for each load."""
    with Client(server) as client:
        presets = [preset.edit for preset in client.domain().presets]
    photos = [path.read_bytes() for path in sorted((ROOT / "demo/samples").glob("*.png"))]
    rows = []
    async with AsyncClient(server, timeout=60, retries=0) as client:
        load = Load(client, presets, photos)
        for preset in presets:  # texts stay known from then on, as in service
            await client.direction(preset)
        await load.always(2, seconds / 2)
        alone = await load.always(1, seconds / 2)
        start, others = time.monotonic(), Others()
        done = [s for s in await load.always(4, seconds) if s is not None]
        most = len(done) / (time.monotonic() - start)
        told.print(f"alone {statistics.median(s for s in alone if s) * 1000:.0f} ms, "
                   f"at most {most:.2f} edits/s, others took {others.share():.0%}")  # fmt: skip
        for part in parts:
            before, start, others = waited(metrics_url), time.monotonic(), Others()
            answers = await load.at_random(part * most, seconds)
            after, took = waited(metrics_url), time.monotonic() - start
            good = sorted(s for s in answers if s is not None)
            rows.append(
                {
                    "load": part,
                    "offered": len(answers) / seconds,
                    "done": len(good) / took,
                    "queue_ms": 1000 * (after[0] - before[0]) / (after[1] - before[1]),
                    "failed": len(answers) - len(good),
                    "others %": 100 * others.share(),
                    **{f"p{p}": 1000 * good[min(p * len(good) // 100, len(good) - 1)]
                       for p in (50, 95, 99)},
                }
            )  # fmt: skip
    return rows


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--server", help="gRPC address of a running server; without it one is started.")
@click.option("--metrics", help="Its metrics, as http://localhost:8002/metrics.")
@click.option("--loads", default="0.3,0.5,0.7,0.8,0.9,1.0,1.2", help="Parts of the highest rate.")
@click.option("--seconds", default=30.0, help="Length of each load.")
def main(server: str | None, metrics: str | None, loads: str, seconds: float) -> None:
    """Measure how long edits wait at several loads."""
    if bool(server) != bool(metrics):
        raise click.UsageError("--server and --metrics are given together")
    console = Console(highlight=False)
    with ExitStack() as stack:
        if server is None:
            from styleclip_server.serving.supervisor import running_server

            running = stack.enter_context(running_server(canary=0))
            server, metrics = running.grpc_url, running.metrics_url
        assert server and metrics
        parts = [float(part) for part in loads.split(",")]
        rows = asyncio.run(measure(server, metrics, parts, seconds, console))
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
