"""The networks at full size on a CPU: eager PyTorch as published against what is served.

    python -m tools.bench.cpu_networks [--networks stylegan2] [--threads 2] [--onnxruntime]

The two take turns in one run, so that whatever else the machine does slows both. Beside the time
that passed it tells the processor's time, which a busy machine stretches least: with `--threads 1`
it is the fairest figure. Weights are random, inputs differ from call to call.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from styleclip_contract import wire
from styleclip_export.convert import onnx_export
from styleclip_networks import CLIP, Encoder4Editing, Generator
from styleclip_server.pipeline.prompt_templates import TEMPLATES
from styleclip_server.pipeline.tokenizer import tokenize
from tools.bench import baseline
from tools.bench.served_networks import Example, accuracy, as_served

TEXTS = (("a face", "a face with red hair"), ("a person", "a sad person"), ("a man", "a pirate"))
TARGETS = {"stylegan2": 4, "e4e": 2, "clip_text": 6}


def network(name: str) -> tuple[nn.Module, Any, Example, Callable[..., Tensor]]:
    """The served wrapper, its contract, its inputs, and the published form."""
    torch.manual_seed(0)
    if name == "stylegan2":
        g = Generator().eval()
        example = onnx_export.random_latents(g)
        served: nn.Module = onnx_export.LatentToPicture(g)
        return served, wire.STYLEGAN2, example, lambda w, d: baseline.picture(g, w, d)
    if name == "e4e":
        e = Encoder4Editing().eval()
        return onnx_export.FaceToLatent(e), wire.E4E, onnx_export.random_faces, e
    clip = CLIP(vision_layers=1).eval()

    def prompts(number: int) -> tuple[Tensor, ...]:
        texts = TEXTS[number % len(TEXTS)]
        rows = tokenize([template.format(text) for text in texts for template in TEMPLATES])
        return (torch.from_numpy(rows),)

    wrapper = onnx_export.TokensToFeatures(clip)
    return wrapper, wire.CLIP_TEXT, prompts, lambda t: clip.encode_text(t.long())


@torch.inference_mode()
def compare(name: str, threads: int, repeat: int, onnxruntime_alone: bool) -> dict[str, Any]:
    """Medians of both forms, in milliseconds."""
    served, model, example, published = network(name)
    export_example = onnx_export.random_tokens if name == "clip_text" else example
    bound = None
    if name != "clip_text" and not onnxruntime_alone:
        torch.manual_seed(0)
        bound = accuracy(name, Generator())
    run, told = as_served(served, model, export_example, bound, threads)

    forms = {"published": published, "served": run}
    taken: dict[str, list[tuple[float, float]]] = {form: [] for form in forms}
    worst = 0.0
    for number in range(repeat + 1):  # the first is a warm-up
        torch.manual_seed(number)
        inputs = example(number if name == "clip_text" else 1)
        answers = []
        for form, call in forms.items():
            began = time.perf_counter(), time.process_time()
            answers.append(np.asarray(call(*inputs), np.float64))
            if number:
                now = time.perf_counter(), time.process_time()
                taken[form].append((now[0] - began[0], now[1] - began[1]))
        worst = max(worst, float(np.abs(answers[0] - answers[1]).max()))
    row: dict[str, Any] = {"network": name, "largest_difference": worst, "served": told}
    for form, times in taken.items():
        for kind, values in zip(("wall", "cpu"), zip(*times, strict=True), strict=True):
            row[f"{form}_{kind}"] = statistics.median(values) * 1000
    return row


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--networks", default=",".join(TARGETS))
@click.option("--threads", default=2, type=click.IntRange(1))
@click.option("--repeat", default=3, type=click.IntRange(1))
@click.option("--onnxruntime", "alone", is_flag=True,
              help="As on a processor that does not multiply bfloat16.")  # fmt: skip
def main(networks: str, threads: int, repeat: int, alone: bool) -> None:
    """Compare the served networks with eager PyTorch, side by side."""
    torch.set_num_threads(threads)
    table = Table(box=None)
    for title in ("network", "eager s", "served s", "ratio", "of CPU time", "target", "difference"):
        table.add_column(title, justify="left" if title == "network" else "right")
    console = Console()
    for name in networks.split(","):
        if name not in TARGETS:
            raise click.BadParameter(f"{name!r} is none of {', '.join(TARGETS)}")
        with console.status(name):
            r = compare(name, threads, repeat, alone)
        table.add_row(
            name, f"{r['published_wall'] / 1000:.2f}", f"{r['served_wall'] / 1000:.2f}",
            f"{r['published_wall'] / r['served_wall']:.1f}",
            f"{r['published_cpu'] / r['served_cpu']:.1f}", f"{TARGETS[name]}",
            f"{r['largest_difference']:.2g}",
        )  # fmt: skip
        console.print(f"{name}: {r['served']}")
    console.print(table)


if __name__ == "__main__":
    main()
