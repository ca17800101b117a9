"""`python -m tools.chaos.soak`: the server's memory over twenty minutes of mixed requests.

Four in five are answered, one in five is refused (no image, no channel left). A short burst before
them fills the batches; texts and strengths vary, so that the caches fill up to their bounds. Writes
out/chaos/soak.json; `--plot FILE` plots it.
"""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from statistics import mean
from typing import Any

import click

from styleclip_client import Client
from styleclip_contract.errors import StyleclipError
from tools.chaos.load import PHOTOS, Load
from tools.chaos.server import Server

OUT = Path("out/chaos/soak.json")
ATTRIBUTES = ("glasses", "a beard", "red hair", "blue eyes", "a hat", "a moustache", "freckles")


def send_random_request(client: Client, rng: random.Random) -> None:
    """Send a random request; raise its error if it is refused."""
    photo = rng.choice(PHOTOS)
    text = f"a face with {rng.choice(ATTRIBUTES)} and {rng.choice(ATTRIBUTES)}"
    edit = client.domain().edit(text, strength=round(rng.uniform(-6, 6), 1))
    match rng.randrange(10):
        case 0:
            client.edit_photo(rng.randbytes(rng.randrange(10**5)), edit)
        case 1:
            client.edit_photo(photo, client.domain().edit(text, threshold=1))
        case 2 | 3 | 4:
            inverted = client.invert(photo)
            client.edit(inverted.w_plus, edit, format=rng.choice(("JPEG", "PNG", "WEBP")))
        case _:
            client.edit_photo(photo, edit, paste=rng.random() < 0.5)


def soak(minutes: float, rate: float) -> dict[str, Any]:
    """Return samples (seconds, MB of each process) and the numbers of requests."""
    server, rng = Server(), random.Random(7)
    samples: list[dict[str, float]] = []
    counts = {"answered": 0, "refused": 0}
    try:
        # ONNX Runtime keeps the memory of its largest batch: run one before the first sample.
        with Load(server.grpc, rate=30):
            time.sleep(10)
        with Client(server.grpc, retries=10) as client:
            start = time.monotonic()
            due = next_sample = start
            while time.monotonic() < start + 60 * minutes:
                try:
                    send_random_request(client, rng)
                    counts["answered"] += 1
                except StyleclipError as error:
                    counts["refused"] += 1
                    counts[type(error).__name__] = counts.get(type(error).__name__, 0) + 1
                if time.monotonic() >= next_sample:
                    next_sample += 10
                    samples.append({"s": time.monotonic() - start, **measure_memory(server)})
                due += 1 / rate
                time.sleep(max(0, due - time.monotonic()))
    finally:
        server.stop()
    return {"minutes": minutes, "requests": counts, "samples": samples}


def measure_memory(server: Server) -> dict[str, float]:
    """Return the MB of the launcher, of Triton, and of each model's processes."""
    memory: dict[str, float] = {}
    for process in server.list_processes():
        line = " ".join(process.cmdline()[:2])
        if "_stub" in line:
            name = Path(line.split()[1]).parts[-3]
        else:
            name = "Triton" if "tritonserver" in line else "launcher"
        memory[name] = memory.get(name, 0) + process.memory_full_info().pss / 1e6
    return memory


def memory_growth(samples: list[dict[str, float]]) -> tuple[float, float]:
    """Return the mean MB of all processes in the second and in the last quarter."""
    totals = [sum(v for k, v in sample.items() if k != "s") for sample in samples]
    quarter = len(totals) // 4
    return mean(totals[quarter : 2 * quarter]), mean(totals[-quarter:])


def plot(report: dict[str, Any], path: Path) -> None:
    """Plot the memory of each process over time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    samples = report["samples"]
    names = sorted({k for sample in samples for k in sample if k != "s"})
    minutes = [sample["s"] / 60 for sample in samples]
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.stackplot(minutes, [[sample.get(n, 0) for sample in samples] for n in names], labels=names)
    early, late = memory_growth(samples)
    axes.set_title(
        f"{report['requests']['answered']} answered and {report['requests']['refused']} refused "
        f"requests: {early:.0f} MB in the second quarter, {late:.0f} MB in the last",
        fontsize=10,
    )
    axes.set(xlabel="minutes", ylabel="MB (shared pages counted once)", xlim=(0, minutes[-1]))
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=100)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--minutes", default=20.0)
@click.option("--rate", default=1.0, help="Requests per second.")
@click.option("--plot", "plot_path", type=click.Path(path_type=Path), help="Write a plot (PNG).")
def main(minutes: float, rate: float, plot_path: Path | None) -> None:
    """Send requests for a long time and report whether the server's memory grows."""
    report = soak(minutes, rate)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(report, indent=1))
    early, late = memory_growth(report["samples"])
    click.echo(
        f"{report['requests']}: {early:.0f} MB in the second quarter, {late:.0f} in the last"
    )
    if plot_path:
        plot(report, plot_path)


if __name__ == "__main__":
    main()
