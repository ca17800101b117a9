"""The plots of a run: one PNG each, small enough to keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes


def draw(run: dict[str, Any], folder: Path) -> None:
    """Writes the plots that `run` has numbers for into `folder`."""
    answered = [r for r in run["results"] if not r.get("refused")]
    _save(folder / "latency-throughput.png", latency_throughput, answered)
    _save(folder / "time-per-model.png", time_per_model, answered)
    grown = run.get("growth", {})
    for name in ("batch", "resolution"):
        if name in grown:
            _save(folder / f"cost-{name}.png", cost, grown[name], name)
    if "edits" in grown:
        _save(folder / "cost-edits.png", stacked_edits, grown["edits"])


def _save(path: Path, plot: Any, *arguments: Any) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    plot(axes, *arguments)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def latency_throughput(axes: Axes, results: list[dict[str, Any]]) -> None:
    """A line for each model, a point for each number of clients."""
    for model in dict.fromkeys(r["model"] for r in results):
        rows = [r for r in results if r["model"] == model]
        x, y = [r["per_second"] for r in rows], [r["p50"] for r in rows]
        style = "k--s" if model == "baseline" else "-o"
        axes.plot(x, y, style, markersize=4, label=model)
        for r in rows:
            axes.annotate(str(r["concurrency"]), (r["per_second"], r["p50"]), fontsize=7,
                          xytext=(3, 3), textcoords="offset points")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="requests a second", ylabel="p50 latency, ms",
             title="Latency against throughput (numbers: clients)")  # fmt: skip
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)


def time_per_model(axes: Axes, results: list[dict[str, Any]]) -> None:
    """Mean time of one client's request in each step; the rest is the wire and the scheduler."""
    least = min((r["concurrency"] for r in results), default=1)
    rows = [r for r in results if r["models"] and r["concurrency"] == least]
    steps = list(dict.fromkeys(
        name for r in rows for name in r["models"] if name not in ("edit", "edit_photo", "invert")
    ))  # fmt: skip
    left = [0.0] * len(rows)
    for step in steps:
        width = [sum(r["models"].get(step, {}).values()) for r in rows]
        axes.barh([r["model"] for r in rows], width, left=left, label=step)
        left = [a + b for a, b in zip(left, width, strict=True)]
    rest = [max(r["p50"] - spent, 0) for r, spent in zip(rows, left, strict=True)]
    axes.barh([r["model"] for r in rows], rest, left=left, label="wire, scheduler", color="0.8")
    axes.invert_yaxis()
    axes.set(xlabel="ms a request", title=f"Where the time goes, {least} at once")
    axes.legend(fontsize=8)


def cost(axes: Axes, rows: list[dict[str, float]], name: str) -> None:
    """Measured cost, and what it would be if it grew as the number of pixels does."""
    x, y = [r[name] for r in rows], [r["ms"] for r in rows]
    power = 1 if name == "batch" else 2
    axes.plot(x, y, "-o", label="measured")
    axes.plot(
        x, [y[-1] * (n / x[-1]) ** power for n in x], "k:", label="as the pixels, from the last"
    )
    axes.set(
        xscale="log",
        yscale="log",
        xlabel=name,
        ylabel="ms",
        title=f"stylegan2: cost against {name}",
    )
    axes.set_xticks(x, [f"{n:g}" for n in x])
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8)


def stacked_edits(axes: Axes, rows: list[dict[str, float]]) -> None:
    """`edit` with several edits: texts that the server knows, and texts that it meets first."""
    x = [r["edits"] for r in rows]
    for key, label in (("known", "known texts"), ("new", "new texts")):
        axes.plot(x, [r[key] for r in rows], "-o", label=label)
    axes.set(
        xlabel="edits stacked",
        ylabel="ms",
        title="edit: cost against stacked edits",
        ylim=(0, None),
    )
    axes.set_xticks(x, [f"{n:g}" for n in x])
    axes.grid(True, alpha=0.3)
    axes.legend(fontsize=8)
