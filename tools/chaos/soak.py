"""`python -m tools.chaos.soak`: does a server's memory grow in twenty minutes of mixed requests?

Most are answered, one in five is refused (no picture, no channel left), so that both ways out of
the server are walked; before them a short rush, which fills the batches. Texts and strengths vary:
the caches fill, and are bounded.
Writes out/chaos/soak.json; `--plot FILE` draws it.
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
THINGS = ("glasses", "a beard", "red hair", "blue eyes", "a hat", "a moustache", "freckles")


def one_request(client: Client, dice: random.Random) -> None:
    """A request, drawn at random; raises what the server refuses it with."""
    photo = dice.choice(PHOTOS)
    text = f"a face with {dice.choice(THINGS)} and {dice.choice(THINGS)}"
    edit = client.domain().edit(text, strength=round(dice.uniform(-6, 6), 1))
    match dice.randrange(10):
        case 0:
            client.edit_photo(dice.randbytes(dice.randrange(10**5)), edit)
        case 1:
            client.edit_photo(photo, client.domain().edit(text, threshold=1))
        case 2 | 3 | 4:
            inverted = client.invert(photo)
            client.edit(inverted.w_plus, edit, format=dice.choice(("JPEG", "PNG", "WEBP")))
        case _:
            client.edit_photo(photo, edit, paste=dice.random() < 0.5)


def soak(minutes: float, rate: float) -> dict[str, Any]:
    """Samples of (seconds, MB of each process) and how many requests there were."""
    server, dice = Server(), random.Random(7)
    samples: list[dict[str, float]] = []
    counts = {"answered": 0, "refused": 0}
    try:
        # ONNX Runtime keeps what its largest batch needed, so let it see one before we look.
        with Load(server.grpc, rate=30):
            time.sleep(10)
        with Client(server.grpc, retries=10) as client:
            began = time.monotonic()
            due = sample = began
            while time.monotonic() < began + 60 * minutes:
                try:
                    one_request(client, dice)
                    counts["answered"] += 1
                except StyleclipError as error:
                    counts["refused"] += 1
                    counts[type(error).__name__] = counts.get(type(error).__name__, 0) + 1
                if time.monotonic() >= sample:
                    sample += 10
                    samples.append({"s": time.monotonic() - began, **by_process(server)})
                due += 1 / rate
                time.sleep(max(0, due - time.monotonic()))
    finally:
        server.stop()
    return {"minutes": minutes, "requests": counts, "samples": samples}


def by_process(server: Server) -> dict[str, float]:
    """MB of each part: the launcher, Triton, and a sum for each model."""
    found: dict[str, float] = {}
    for process in server.family():
        line = " ".join(process.cmdline()[:2])
        if "_stub" in line:
            name = Path(line.split()[1]).parts[-3]
        else:
            name = "Triton" if "tritonserver" in line else "launcher"
        found[name] = found.get(name, 0) + process.memory_full_info().pss / 1e6
    return found


def growth(samples: list[dict[str, float]]) -> tuple[float, float]:
    """MB of all parts together: means of the second and of the last quarter."""
    totals = [sum(v for k, v in sample.items() if k != "s") for sample in samples]
    quarter = len(totals) // 4
    return mean(totals[quarter : 2 * quarter]), mean(totals[-quarter:])


def plot(told: dict[str, Any], path: Path) -> None:
    """Memory of each part over time."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    samples = told["samples"]
    names = sorted({k for sample in samples for k in sample if k != "s"})
    minutes = [sample["s"] / 60 for sample in samples]
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.stackplot(minutes, [[sample.get(n, 0) for sample in samples] for n in names], labels=names)
    early, late = growth(samples)
    axes.set_title(
        f"{told['requests']['answered']} answered and {told['requests']['refused']} refused "
        f"requests: {early:.0f} MB in the second quarter, {late:.0f} MB in the last",
        fontsize=10,
    )
    axes.set(xlabel="minutes", ylabel="MB (shared pages counted once)", xlim=(0, minutes[-1]))
    axes.legend(loc="lower right", fontsize=8)
    figure.savefig(path, dpi=100)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--minutes", default=20.0)
@click.option("--rate", default=1.0, help="Requests a second.")
@click.option("--plot", "picture", type=click.Path(path_type=Path), help="Draw it there (PNG).")
def main(minutes: float, rate: float, picture: Path | None) -> None:
    """Ask a server for a long time, and see whether its memory grows."""
    told = soak(minutes, rate)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(told, indent=1))
    early, late = growth(told["samples"])
    click.echo(f"{told['requests']}: {early:.0f} MB in the second quarter, {late:.0f} in the last")
    if picture:
        plot(told, picture)


if __name__ == "__main__":
    main()
