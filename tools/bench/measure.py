"""One measurement: perf_analyzer for Triton, client threads for the baseline server."""

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

from tools.bench.perf_analyzer import BenchmarkFailed, find_perf_analyzer

ROOT = Path(__file__).resolve().parents[2]
PERCENTILES = (50, 90, 95, 99)
TEXTS = ("NEUTRAL", "TARGET", "STRENGTH", "THRESHOLD")
NO_REQUEST_ENDED = "larger time window"  # in the output of perf_analyzer
QUEUE_FULL = "Exceeds maximum queue size"
MAX_SECONDS = 60  # of a measurement

Result = dict[str, Any]


def measure_model(
    url: str, model: str, data: list[dict[str, Any]], concurrency: int, seconds: float
) -> Result:
    """Run perf_analyzer on one model.

    Returns:
        Requests per second, latency percentiles in milliseconds, and the time in each model. If the
        server refuses some requests (its queues are short by design) `refused` stands in place of
        the numbers, since perf_analyzer stops at the first refusal.
    """
    # `localhost` also stands for ::1, where no server listens: some requests of
    # perf_analyzer would take seconds (docs/notes/serving-throughput.md).
    url = url.replace("localhost:", "127.0.0.1:", 1)
    with tempfile.TemporaryDirectory() as folder:
        source, table = Path(folder, "input.json"), Path(folder, "table.csv")
        source.write_text(json.dumps({"data": data}))
        arguments = [*find_perf_analyzer(), "-m", model, "-u", url, "-i", "grpc",
                     "--input-data", str(source),
                     "--concurrency-range", str(concurrency), "-f", str(table),
                     "--measurement-interval", str(int(seconds * 1000)), "--max-trials", "3",
                     "--stability-percentage", "999"]  # fmt: skip
        if model in ("edit", "edit_photo"):
            arguments += [f"--shape={name}:1" for name in TEXTS]
        before = read_statistics(url)
        done = subprocess.run(arguments, capture_output=True, text=True)
        output = (done.stderr + done.stdout).strip()
        if not table.exists():
            if QUEUE_FULL in output:
                return {"model": model, "concurrency": concurrency, "refused": True}
            if NO_REQUEST_ENDED in output and seconds < MAX_SECONDS:
                return measure_model(url, model, data, concurrency, 3 * seconds)
            reason = " ".join((done.stderr or done.stdout).split()) or "no reason given"
            raise BenchmarkFailed(f"perf_analyzer failed on {model}: {reason}")
        (row,) = csv.DictReader(table.open())
    return {
        "model": model,
        "concurrency": concurrency,
        "per_second": float(row["Inferences/Second"]),
        **{f"p{p}": float(row[f"p{p} latency"]) / 1000 for p in PERCENTILES},
        "models": mean_times(before, read_statistics(url)),
    }


def read_statistics(url: str) -> dict[str, tuple[int, int, int]]:
    """Return model → (requests, ns in the queue, ns computing) since the server started."""
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


def mean_times(
    before: dict[str, tuple[int, int, int]], after: dict[str, tuple[int, int, int]]
) -> dict[str, dict[str, float]]:
    """Return the mean milliseconds per request of each model between two readings."""
    times = {}
    for name, now in after.items():
        count, queue, compute = (b - a for a, b in zip(before[name], now, strict=True))
        if count and compute:
            times[name] = {"queue_ms": queue / count / 1e6, "compute_ms": compute / count / 1e6}
    return times


@contextmanager
def running_baseline() -> Iterator[int]:
    """Run the baseline server in another process; yield its port."""
    command = [sys.executable, "-m", "tools.bench.baseline_server", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout
            line = process.stdout.readline()
            if not line:
                raise BenchmarkFailed("the baseline server did not start; run it to see why")
            yield int(line.rsplit(":", 1)[1].split("/")[0])
        finally:
            process.terminate()


def measure_baseline(port: int, bodies: list[bytes], concurrency: int, seconds: float) -> Result:
    """Measure the baseline under `concurrency` clients without pauses.

    Every client completes at least one request, however long it takes.
    """
    latencies: list[float] = []
    deadline = time.perf_counter() + seconds

    def run_client(number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        while True:
            sent = time.perf_counter()
            connection.request("POST", "/edit", bodies[number % len(bodies)])
            connection.getresponse().read()
            now = time.perf_counter()
            latencies.append((now - sent) * 1000)
            number += concurrency
            if now >= deadline:
                return connection.close()

    start = time.perf_counter()
    clients = [threading.Thread(target=run_client, args=(i,)) for i in range(concurrency)]
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    return {
        "model": "baseline",
        "concurrency": concurrency,
        "per_second": len(latencies) / (time.perf_counter() - start),
        **{f"p{p}": float(np.percentile(latencies, p)) for p in PERCENTILES},
        "models": {},
    }
