"""One measurement: perf_analyzer for Triton, threads of its own for the baseline server."""

from __future__ import annotations

import csv
import http.client
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from tools.bench.perf_analyzer import PerfAnalyzerMissing, command

ROOT = Path(__file__).resolve().parents[2]
PERCENTILES = (50, 90, 95, 99)
TEXTS = ("NEUTRAL", "TARGET", "STRENGTH", "THRESHOLD")
NOTHING, LONGEST = "larger time window", 60
REFUSED = "Exceeds maximum queue size"

Result = dict[str, Any]


def triton_model(
    url: str, model: str, data: list[dict[str, Any]], concurrency: int, seconds: float
) -> Result:
    """perf_analyzer on one model: requests a second, latencies in milliseconds.

    A server that refuses some of so many requests at once (its queue is short by design) gives
    `refused` in place of numbers: perf_analyzer stops at the first refusal.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, table = Path(folder, "input.json"), Path(folder, "table.csv")
        source.write_text(json.dumps({"data": data}))
        arguments = [*command(), "-m", model, "-u", url, "-i", "grpc", "--input-data", str(source),
                     "--concurrency-range", str(concurrency), "-f", str(table),
                     "--measurement-interval", str(int(seconds * 1000)), "--max-trials", "3",
                     "--stability-percentage", "999"]  # fmt: skip
        if model in ("edit", "edit_photo"):
            arguments += [f"--shape={name}:1" for name in TEXTS]
        before = spent(url)
        done = subprocess.run(arguments, capture_output=True, text=True)
        told = (done.stderr + done.stdout).strip()
        if not table.exists():
            if REFUSED in told:
                return {"model": model, "concurrency": concurrency, "refused": True}
            if NOTHING in told and seconds < LONGEST:  # not one request ended within the window
                return triton_model(url, model, data, concurrency, 3 * seconds)
            reason = " ".join((done.stderr or done.stdout).split()) or "no reason given"
            raise PerfAnalyzerMissing(f"perf_analyzer failed on {model}: {reason}")
        (row,) = csv.DictReader(table.open())
    return {
        "model": model,
        "concurrency": concurrency,
        "per_second": float(row["Inferences/Second"]),
        **{f"p{p}": float(row[f"p{p} latency"]) / 1000 for p in PERCENTILES},
        "models": breakdown(before, spent(url)),
    }


def spent(url: str) -> dict[str, tuple[int, int, int]]:
    """Model → (requests, nanoseconds in the queue, nanoseconds computing) since it started."""
    with triton.InferenceServerClient(url) as connection:
        statistics = connection.get_inference_statistics()
    return {
        m.name: (
            m.inference_stats.success.count,
            m.inference_stats.queue.ns,
            m.inference_stats.compute_input.ns
            + m.inference_stats.compute_infer.ns
            + m.inference_stats.compute_output.ns,
        )
        for m in statistics.model_stats
    }


def breakdown(
    before: dict[str, tuple[int, int, int]], after: dict[str, tuple[int, int, int]]
) -> dict[str, dict[str, float]]:
    """Mean milliseconds a request in each model that worked between two looks."""
    found = {}
    for name, now in after.items():
        count, queue, compute = (b - a for a, b in zip(before[name], now, strict=True))
        if count and compute:
            found[name] = {"queue_ms": queue / count / 1e6, "compute_ms": compute / count / 1e6}
    return found


@contextmanager
def baseline() -> Iterator[int]:
    """The naive server in a process of its own; gives its port."""
    command = [sys.executable, "-m", "tools.bench.baseline_server", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            if not line:
                raise PerfAnalyzerMissing("the baseline server did not start; run it to see why")
            yield int(line.rsplit(":", 1)[1].split("/")[0])
        finally:
            process.terminate()


def baseline_server(port: int, bodies: list[bytes], concurrency: int, seconds: float) -> Result:
    """The baseline under `concurrency` clients that each ask again when answered.

    Every client finishes at least one request, which counts: a slow server has few in `seconds`.
    """
    taken: list[float] = []
    until = time.perf_counter() + seconds

    def ask(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while True:
            began = time.perf_counter()
            connection.request("POST", "/edit", bodies[number % len(bodies)])
            connection.getresponse().read()
            now = time.perf_counter()
            taken.append((now - began) * 1000)
            number += concurrency
            if now >= until:
                return connection.close()

    began = time.perf_counter()
    clients = [threading.Thread(target=ask, args=(i,)) for i in range(concurrency)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return {
        "model": "baseline",
        "concurrency": concurrency,
        "per_second": len(taken) / (time.perf_counter() - began),
        **{f"p{p}": float(np.percentile(taken, p)) for p in PERCENTILES},
        "models": {},
    }
