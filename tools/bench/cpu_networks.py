"""The networks at full size on a CPU: as published, in eager PyTorch, and as served.

    python -m tools.bench.cpu_networks [--networks stylegan2] [--threads 2] [--onnxruntime]

The two alternate in one run, so that other load on the machine slows both. It reports wall time and
CPU time; with `--threads 1` CPU time is the fairest figure on a busy machine. Weights are random,
inputs differ from call to call.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from styleclip_export.convert.network_variants import (
    NetworkVariants,
    clip_text_variants,
    e4e_variants,
    stylegan2_variants,
)
from styleclip_export.convert.random_inputs import InputFactory
from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.stylegan2 import Generator
from styleclip_server.pipeline.prompt_templates import TEMPLATES
from styleclip_server.pipeline.tokenizer import tokenize
from tools.bench import baseline
from tools.bench.served_networks import export_as_served

TEXTS = (("a face", "a face with red hair"), ("a person", "a sad person"), ("a man", "a pirate"))
TARGETS = {"stylegan2": 4, "e4e": 2, "clip_text": 6}


@dataclass(frozen=True)
class Case:
    """A network of full size with random weights.

    Attributes:
        variants: what is exported.
        published: the network as published, in PyTorch.
        inputs: number of a call → inputs to measure with.
    """

    variants: NetworkVariants
    published: Callable[..., Tensor]
    inputs: InputFactory


def build_network(name: str) -> Case:
    """Build the network `name`."""
    torch.manual_seed(0)
    if name == "stylegan2":
        g = Generator().eval()
        variants = stylegan2_variants(g)
        return Case(
            variants,
            lambda w_plus, delta: baseline.generate(g, w_plus, delta),
            lambda number: variants.draw_inputs(1),
        )
    if name == "e4e":
        e = Encoder4Editing().eval()
        torch.manual_seed(0)
        variants = e4e_variants(e, Generator().eval())
        return Case(variants, e, lambda number: variants.draw_inputs(1))
    clip = CLIP(vision_layers=1).eval()
    variants = clip_text_variants(clip)
    return Case(variants, lambda tokens: clip.encode_text(tokens.long()), tokenize_prompts)


def tokenize_prompts(number: int) -> tuple[Tensor, ...]:
    """Return the tokens of both texts of an edit in all prompt templates."""
    texts = TEXTS[number % len(TEXTS)]
    rows = tokenize([template.format(text) for text in texts for template in TEMPLATES])
    return (torch.from_numpy(rows),)


@torch.inference_mode()
def compare(name: str, threads: int, repeat: int, onnxruntime_only: bool) -> dict[str, Any]:
    """Return the medians of both in milliseconds."""
    case = build_network(name)
    run, description = export_as_served(case.variants, threads, allow_openvino=not onnxruntime_only)

    calls = {"published": case.published, "served": run}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    largest = 0.0
    for number in range(repeat + 1):  # the first is a warm-up
        torch.manual_seed(number)
        inputs = case.inputs(number)
        outputs = []
        for kind, call in calls.items():
            start = time.perf_counter(), time.process_time()
            outputs.append(np.asarray(call(*inputs), np.float64))
            if number:
                end = time.perf_counter(), time.process_time()
                times[kind].append((end[0] - start[0], end[1] - start[1]))
        largest = max(largest, float(np.abs(outputs[0] - outputs[1]).max()))
    row: dict[str, Any] = {"network": name, "largest_difference": largest, "served": description}
    for kind, pairs in times.items():
        for clock, values in zip(("wall", "cpu"), zip(*pairs, strict=True), strict=True):
            row[f"{kind}_{clock}"] = statistics.median(values) * 1000
    return row


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--networks", default=",".join(TARGETS))
@click.option("--threads", default=2, type=click.IntRange(1))
@click.option("--repeat", default=3, type=click.IntRange(1))
@click.option("--onnxruntime", "onnxruntime_only", is_flag=True,
              help="As on a processor that does not multiply bfloat16.")  # fmt: skip
def main(networks: str, threads: int, repeat: int, onnxruntime_only: bool) -> None:
    """Compare the served networks with eager PyTorch."""
    torch.set_num_threads(threads)
    table = Table(box=None)
    for title in ("network", "eager s", "served s", "ratio", "of CPU time", "target", "difference"):
        table.add_column(title, justify="left" if title == "network" else "right")
    console = Console()
    for name in networks.split(","):
        if name not in TARGETS:
            raise click.BadParameter(f"{name!r} is not one of {', '.join(TARGETS)}")
        with console.status(name):
            r = compare(name, threads, repeat, onnxruntime_only)
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
