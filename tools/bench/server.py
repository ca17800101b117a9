"""What `make bench` runs: perf_analyzer on every ensemble and network of a server.

Inputs are real: the photos of demo/samples (or yours), their latents, the domain's presets at
several strengths. Times inside the server come from Triton's statistics. The baseline server (eager
PyTorch in one process) is measured beside `edit_photo`. Results are written to out/bench/<time>/
after every measurement; plots and a table that compares with the last run follow at the end.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from styleclip_client import Client, StyleclipError
from styleclip_contract import limits
from styleclip_server.serving.options import Options
from styleclip_server.serving.supervisor import running_server
from tools.bench import growth, measure, plots
from tools.bench.inputs import MODELS, build_inputs
from tools.bench.perf_analyzer import BenchmarkFailed, find_perf_analyzer

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "out" / "bench"
QUEUE_LENGTH = 256  # of each model of the server that is started here
BASELINE_CLIENTS = 4  # it answers one request at a time: more clients only wait longer


def _parse_numbers(_: Any, __: Any, text: str) -> list[int]:
    try:
        return [n for n in map(int, text.split(",")) if n > 0]
    except ValueError:
        raise click.BadParameter(f"{text!r} is no list of numbers such as 1,4,16") from None


def _parse_models(_: Any, __: Any, text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in MODELS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(MODELS)}")
    return names


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--server", help="gRPC address of a running server; without it one is started.")
@click.option("--concurrency", default="1,2,4,8,16,32,64", callback=_parse_numbers,
              help="Numbers of clients.")  # fmt: skip
@click.option("--models", default=",".join(MODELS), callback=_parse_models)
@click.option("--seconds", default=5.0, type=click.FloatRange(0.5), help="Length of a measurement.")
@click.option("--baseline/--no-baseline", default=True,
              help="Also measure the baseline server (avatars only).")  # fmt: skip
@click.option("--growth/--no-growth", "measure_growth", default=True,
              help="Also measure cost against batch, resolution and stacked edits.")  # fmt: skip
@click.option("--resolutions", default="64,128,256,512,1024", callback=_parse_numbers)
@click.option("--photos", "folder_of_photos", type=click.Path(file_okay=False, path_type=Path),
              help="A folder of JPEG files to send, in place of demo/samples.")  # fmt: skip
@click.option("--fidelity", type=click.Choice(limits.FIDELITIES),
              help="Of edits; by default latent.")  # fmt: skip
@click.option("--short", is_flag=True, help="Two models, 1 and 4 clients, two seconds each.")
def main(
    server: str | None,
    concurrency: list[int],
    models: list[str],
    seconds: float,
    baseline: bool,
    measure_growth: bool,
    resolutions: list[int],
    folder_of_photos: Path | None,
    fidelity: str | None,
    short: bool,
) -> None:
    """Measure the server with perf_analyzer; tables, CSV, JSON and plots in out/bench/."""
    console = Console()
    if short:
        concurrency, models, seconds, measure_growth = [1, 4], ["edit", "edit_photo"], 2.0, False
    run: dict[str, Any] = {"load": os.getloadavg()[0], "cores": os.cpu_count(), "results": []}
    last_path = max(OUT.glob("*/results.json"), default=None)
    last = json.loads(last_path.read_text()) if last_path else None
    folder = OUT / time.strftime("%Y%m%d-%H%M%S")
    try:
        find_perf_analyzer()  # fails early
        with ExitStack() as stack:
            if server is None:
                console.print("starting a server (give --server to measure a running one)")
                server = stack.enter_context(_start_server())
            client = stack.enter_context(Client(server))
            domain = client.domain()
            run["domain"], run["fidelity"] = domain.name, fidelity or limits.DEFAULT_FIDELITY
            pattern = "p*.jpg" if domain.align else "avatar-*.png"
            photos = sorted((ROOT / "demo" / "samples").glob(pattern))
            if folder_of_photos:
                photos = sorted(folder_of_photos.glob("*.jpg"))
            data = build_inputs(client, photos, fidelity)
            port = None
            if baseline and run["domain"] == "avatars" and "edit_photo" in models:
                port = stack.enter_context(measure.running_baseline())
                measure.measure_baseline(port, _baseline_bodies(client, photos), 1, 0)  # warm-up
            for row in _sweep(console, client, data, models, concurrency, seconds, port,
                              _baseline_bodies(client, photos)):  # fmt: skip
                run["results"].append(row)
                _write(folder, run)
            if measure_growth:
                with console.status("cost against stacked edits"):
                    run["growth"] = {"edits": growth.measure_edits(client, photos[0])}
                _write(folder, run)
    except (BenchmarkFailed, StyleclipError) as error:
        raise click.ClickException(str(error)) from error
    if measure_growth:  # after the server, which would share the processor
        with console.status("cost against batch and resolution"):
            run["growth"] |= growth.measure_networks(resolutions)
        _write(folder, run)
    plots.write_plots(run, folder)
    _print_table(console, run["results"], last)
    console.print(f"written: {folder.relative_to(ROOT)}/", highlight=False)


@contextmanager
def _start_server() -> Iterator[str]:
    """Run a server that refuses no client; yield its gRPC address.

    perf_analyzer stops at the first refusal, and by default queues are short and few requests run.
    """
    with running_server(
        Options(queue_length=QUEUE_LENGTH, max_concurrent=QUEUE_LENGTH), canary=0
    ) as server:
        yield server.grpc_url


def _baseline_bodies(client: Client, photos: list[Path]) -> list[bytes]:
    """Return the requests for the baseline: the photos and edits of `edit_photo`."""
    edits = [preset.edit for preset in client.domain().presets]
    return [
        json.dumps(
            {
                "photo": base64.b64encode(photo.read_bytes()).decode(),
                "neutral": edit.neutral,
                "target": edit.target,
                "strength": edit.strength,
                "threshold": edit.threshold,
            }
        ).encode()
        for photo in photos
        for edit in edits
    ]


def _sweep(console: Console, client: Client, data: dict[str, Any], models: list[str],
           concurrency: list[int], seconds: float, port: int | None,
           bodies: list[bytes]) -> Iterator[dict[str, Any]]:  # fmt: skip
    for model in models:
        for n in concurrency:
            with console.status(f"{model}, {n} client(s)"):
                yield measure.measure_model(client.url, model, data[model], n, seconds)
                if model == "edit_photo" and port is not None and n <= BASELINE_CLIENTS:
                    yield measure.measure_baseline(port, bodies, n, seconds)


def _write(folder: Path, run: dict[str, Any]) -> None:
    """Write the results so far."""
    columns = ["model", "concurrency", "refused", "per_second", "p50", "p90", "p95", "p99"]
    rows = io.StringIO()
    table = csv.DictWriter(rows, columns, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    table.writerows(run["results"])
    folder.mkdir(parents=True, exist_ok=True)
    texts = {"results.json": json.dumps(run, indent=1) + "\n", "results.csv": rows.getvalue()}
    for name, text in texts.items():
        partial = folder / f".{name}.part"
        partial.write_text(text)
        partial.replace(folder / name)


def _print_table(
    console: Console, results: list[dict[str, Any]], last: dict[str, Any] | None
) -> None:
    before = {(r["model"], r["concurrency"]): r for r in (last or {}).get("results", [])}
    table = Table(box=None)
    for name in ("model", "clients", "per s", "p50 ms", "p99 ms", "p50 / last", "where (ms)"):
        table.add_column(name, justify="left" if name[0] in "mw" else "right")
    for r in results:
        if r.get("refused"):
            table.add_row(r["model"], str(r["concurrency"]), "", "", "", "", "some refused")
            continue
        old = before.get((r["model"], r["concurrency"]), {}).get("p50")
        parts = [f"{n} {m['compute_ms']:.1f}" for n, m in r["models"].items() if n != r["model"]]
        table.add_row(
            r["model"], str(r["concurrency"]), f"{r['per_second']:.1f}", f"{r['p50']:.1f}",
            f"{r['p99']:.1f}", f"{r['p50'] / old:.2f}" if old else "", ", ".join(parts),
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
