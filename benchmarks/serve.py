"""What `make bench` runs: perf_analyzer on every ensemble and network of the running server.

Inputs are real: photos of demo/samples, their own latents, the domain's presets at several
strengths. Where the time goes inside the server comes from Triton's own statistics. Writes
out/bench/<time>.json and prints a table, beside the last run's.
"""

from __future__ import annotations

import base64
import csv
import json
import os
import platform
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import tritonclient.grpc as triton
from perf_analyzer import PerfAnalyzerMissing, command
from rich.console import Console
from rich.table import Table
from styleclip_client import Client, StyleclipError
from styleclip_server.tokenizer import tokenize

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "out" / "bench"
MODELS = ("edit", "edit_photo", "invert", "stylegan2", "e4e", "clip_text")
STRENGTHS = (2.0, 4.0, 6.0, 8.0)


def inputs(client: Client, photos: list[Path]) -> dict[str, list[dict[str, Any]]]:
    """perf_analyzer's --input-data for each model."""
    presets = client.domain().presets
    data: dict[str, list[dict[str, Any]]] = {name: [] for name in MODELS}
    connection = triton.InferenceServerClient(client.url)
    for i, path in enumerate(photos):
        raw = path.read_bytes()  # on the wire, a BYTES element follows its length
        photo = {"b64": base64.b64encode(struct.pack("<I", len(raw)) + raw).decode()}
        latent = client.invert(path).w_plus
        w_plus = {"content": latent.ravel().tolist(), "shape": list(latent.shape)}
        crop = _ask(connection, "align", PHOTO=[raw])["FACE_CROP"]
        data["invert"].append({"PHOTO": photo})
        data["e4e"].append({"FACE_CROP": {"content": crop.ravel().tolist()}})
        for j, preset in enumerate(presets):
            edit = replace(preset.edit, strength=STRENGTHS[(i + j) % len(STRENGTHS)])
            texts = {
                "NEUTRAL": {"content": [edit.neutral], "shape": [1]},
                "TARGET": {"content": [edit.target], "shape": [1]},
                "STRENGTH": {"content": [edit.strength], "shape": [1]},
                "THRESHOLD": {"content": [edit.threshold], "shape": [1]},
            }
            data["edit"].append({"W_PLUS": w_plus, **texts})
            data["edit_photo"].append({"PHOTO": photo, **texts})
            delta = _ask(
                connection,
                "direction",
                NEUTRAL=[edit.neutral.encode()],
                TARGET=[edit.target.encode()],
                STRENGTH=[edit.strength],
                THRESHOLD=[edit.threshold],
            )["DELTA"]
            data["stylegan2"].append({"W_PLUS": w_plus, "DELTA": {"content": delta.tolist()}})
    for preset in presets:
        row = tokenize([preset.edit.target])[0]
        data["clip_text"].append({"TOKENS": {"content": row.tolist()}})
    connection.close()
    return data


def _ask(connection: Any, model: str, **values: Any) -> dict[str, np.ndarray]:
    from styleclip_client import contract

    tensors = {t.name: t for t in contract.MODELS[model].inputs}
    entries = []
    for name, value in values.items():
        kind = {"BYTES": np.object_, "FP32": np.float32}[tensors[name].datatype]
        array = np.array([value], kind)
        entries.append(triton.InferInput(name, list(array.shape), tensors[name].datatype))
        entries[-1].set_data_from_numpy(array)
    answer = connection.infer(model, entries)
    return {t.name: answer.as_numpy(t.name)[0] for t in contract.MODELS[model].outputs}


def analyse(url: str, model: str, data: list[dict[str, Any]], concurrency: int, seconds: float
            ) -> dict[str, Any]:  # fmt: skip
    """One perf_analyzer run: requests a second and latencies in milliseconds."""
    shapes = [f"--shape={name}:1" for name in ("NEUTRAL", "TARGET", "STRENGTH", "THRESHOLD")]
    with tempfile.TemporaryDirectory() as folder:
        source, table = Path(folder, "input.json"), Path(folder, "table.csv")
        source.write_text(json.dumps({"data": data}))
        arguments = [*command(), "-m", model, "-u", url, "-i", "grpc", "--input-data", str(source),
                     "--concurrency-range", str(concurrency), "-f", str(table),
                     "--measurement-interval", str(int(seconds * 1000)), "--max-trials", "3",
                     "--stability-percentage", "999"]  # fmt: skip
        arguments += shapes if model in ("edit", "edit_photo") else []
        done = subprocess.run(arguments, capture_output=True, text=True)
        if not table.exists():
            reason = (done.stderr or done.stdout).strip().splitlines()
            raise click.ClickException(f"perf_analyzer failed on {model}: {reason[-1:]}")
        (row,) = csv.DictReader(table.open())
    return {
        "model": model,
        "concurrency": concurrency,
        "per_second": float(row["Inferences/Second"]),
        **{f"p{p}": float(row[f"p{p} latency"]) / 1000 for p in (50, 90, 95, 99)},
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


def breakdown(before: dict[str, Any], after: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Mean milliseconds a request in each model that worked between two looks."""
    found = {}
    for name, now in after.items():
        count, queue, compute = (b - a for a, b in zip(before[name], now, strict=True))
        if count and compute:
            found[name] = {"queue_ms": queue / count / 1e6, "compute_ms": compute / count / 1e6}
    return found


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--server", help="gRPC address of a running server; without it one is started.")
@click.option("--concurrency", default="1,2,4", help="Requests under way at once.")
@click.option("--models", default=",".join(MODELS))
@click.option("--seconds", default=5.0, help="Length of one measurement.")
def main(server: str | None, concurrency: str, models: str, seconds: float) -> None:
    """Measure the server with perf_analyzer."""
    console = Console()
    photos = sorted((ROOT / "demo" / "samples").glob("*.png"))
    try:
        command()
        with ExitStack() as stack:
            if server is None:
                from styleclip_server.launcher import running_server

                console.print("starting a server (give --server to measure a running one)")
                server = stack.enter_context(running_server(canary=0)).grpc_url
            client = stack.enter_context(Client(server))
            data = inputs(client, photos)
            results = []
            for model in models.split(","):
                for n in map(int, concurrency.split(",")):
                    with console.status(f"{model}, concurrency {n}"):
                        before = spent(server)
                        result = analyse(server, model, data[model], n, seconds)
                        result["models"] = breakdown(before, spent(server))
                    results.append(result)
            domain = client.domain().name
    except (PerfAnalyzerMissing, StyleclipError) as error:
        raise click.ClickException(str(error)) from error
    last = max(OUT.glob("*.json"), default=None)
    _tell(console, results, json.loads(last.read_text()) if last else None)
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    host = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count()}
    path.write_text(json.dumps({"domain": domain, **host, "results": results}, indent=1) + "\n")
    console.print(f"written: {path.relative_to(ROOT)}", highlight=False)


def _tell(console: Console, results: list[dict[str, Any]], last: dict[str, Any] | None) -> None:
    before = {(r["model"], r["concurrency"]): r for r in (last or {}).get("results", [])}
    table = Table(box=None)
    for name in (
        "model",
        "at once",
        "per s",
        "p50 ms",
        "p99 ms",
        "last p50",
        "where (ms)",
    ):
        table.add_column(name, justify="left" if name[0] in "mw" else "right")
    for r in results:
        old = before.get((r["model"], r["concurrency"]))
        parts = [f"{n} {m['compute_ms']:.1f}" for n, m in r["models"].items() if n != r["model"]]
        table.add_row(
            r["model"], str(r["concurrency"]), f"{r['per_second']:.1f}", f"{r['p50']:.1f}",
            f"{r['p99']:.1f}", f"{old['p50']:.1f}" if old else "", ", ".join(parts),
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
