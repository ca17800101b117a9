"""The plots of a benchmark run, as small PNG files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from styleclip_contract import wire


def write_plots(run: dict[str, Any], folder: Path) -> None:
    """Write the plots for which `run` has results into `folder`."""
    results = [r for r in run["results"] if not r.get("refused")]
    _save(folder / "latency-throughput.png", plot_latency_throughput, results)
    _save(folder / "time-per-model.png", plot_time_per_model, results)
    growth = run.get("growth", {})
    for name in ("batch", "resolution"):
        if name in growth:
            _save(folder / f"cost-{name}.png", plot_cost, growth[name], name)
    if "edits" in growth:
        _save(folder / "cost-edits.png", plot_stacked_edits, growth["edits"])


def _save(path: Path, plot: Any, *arguments: Any) -> None:
    figure, axes = plt.subplots(figsize=(6.4, 4), layout="constrained")
    plot(axes, *arguments)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def plot_latency_throughput(axes: Axes, results: list[dict[str, Any]]) -> None:
    """Plot a line per model and a point per number of clients."""
    for model in dict.fromkeys(r["model"] for r in results):
        rows = [r for r in results if r["model"] == model]
        x, y = [r["per_second"] for r in rows], [r["p50"] for r in rows]
        style = "k--s" if model == "baseline" else "-o"
        axes.plot(x, y, style, markersize=4, label=model)
        for r in rows:
            axes.annotate(str(r["concurrency"]), (r["per_second"], r["p50"]), fontsize=7,
                          xytext=(3, 3), textcoords="offset points")  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="requests per second", ylabel="p50 latency, ms",
             title="Latency against throughput (numbers: clients)")  # fmt: skip
    axes.grid(True, which="both", alpha=0.3)
    axes.legend(fontsize=8)


def plot_time_per_model(axes: Axes, results: list[dict[str, Any]]) -> None:
    """Plot where the time of a request goes; the rest is transport and scheduling."""
    least = min((r["concurrency"] for r in results), default=1)
    rows = [r for r in results if r["models"] and r["concurrency"] == least]
    ensembles = {model.name for model in wire.ENSEMBLES}
    steps = list(dict.fromkeys(name for r in rows for name in r["models"] if name not in ensembles))
    left = [0.0] * len(rows)
    for step in steps:
        width = [sum(r["models"].get(step, {}).values()) for r in rows]
        axes.barh([r["model"] for r in rows], width, left=left, label=step)
        left = [a + b for a, b in zip(left, width, strict=True)]
    rest = [max(r["p50"] - spent, 0) for r, spent in zip(rows, left, strict=True)]
    axes.barh(
        [r["model"] for r in rows], rest, left=left, label="transport, scheduler", color="0.8"
    )
    axes.invert_yaxis()
    axes.set(xlabel="ms per request", title=f"Where the time goes, {least} client(s)")
    axes.legend(fontsize=8)


def plot_cost(axes: Axes, rows: list[dict[str, float]], name: str) -> None:
    """Plot the measured cost and cost proportional to the number of pixels."""
    x, y = [r[name] for r in rows], [r["ms"] for r in rows]
    power = 1 if name == "batch" else 2
    axes.plot(x, y, "-o", label="measured")
    axes.plot(x, [y[-1] * (n / x[-1]) ** power for n in x], "k:", label="proportional to pixels")
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


def plot_stacked_edits(axes: Axes, rows: list[dict[str, float]]) -> None:
    """Plot the latency of `edit` with several edits, for cached and for new texts."""
    x = [r["edits"] for r in rows]
    for key, label in (("known", "cached texts"), ("new", "new texts")):
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
