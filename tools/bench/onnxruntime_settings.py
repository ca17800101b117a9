"""Settings of ONNX Runtime for the served networks on this CPU, compared one at a time.

    python -m tools.bench.onnxruntime_settings [--networks stylegan2] [--full] [--repeat 8]

Each variant alternates with the served settings, so that other load on the machine slows both. It
prints medians and their ratio to the served ones, of single calls and of two concurrent clients.
The networks are the committed avatars, or with `--full` of full size with random weights.
"""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import click
import numpy as np
import onnxruntime
import torch
from rich.console import Console
from rich.table import Table

from styleclip_contract import wire
from styleclip_export.convert import onnx_export
from styleclip_export.convert.random_inputs import latent_factory, random_faces
from styleclip_networks.stylegan2 import Generator
from styleclip_server.pipeline.prompt_templates import TEMPLATES
from styleclip_server.pipeline.tokenizer import tokenize
from styleclip_server.serving.options import default_repository
from tools.bench.cpu_networks import build_network

NETWORKS = {model.name: model for model in wire.NETWORKS}
Feed = dict[str, np.ndarray]


@dataclass(frozen=True)
class Settings:
    """Settings that differ from ONNX Runtime's defaults."""

    threads: int = 2
    instances: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    entries: dict[str, str] = field(default_factory=dict)

    def sessions(self, model: bytes) -> list[onnxruntime.InferenceSession]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, self.threads
        for name, value in self.options.items():
            setattr(options, name, value)
        for name, value in self.entries.items():
            options.add_session_config_entry(name, value)
        return [
            onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
            for _ in range(self.instances)
        ]


_DURATION = "session.intra_op.spin_duration_us"
_SHORT = {_DURATION: "20"}
_LEVEL = onnxruntime.GraphOptimizationLevel
SERVED = Settings(entries=_SHORT)  # as the server sets it
VARIANTS = {
    "one thread": Settings(threads=1, entries=_SHORT),
    "two instances of one thread": Settings(threads=1, instances=2, entries=_SHORT),
    "two instances of two threads": Settings(instances=2, entries=_SHORT),
    "no spinning": Settings(entries={"session.intra_op.allow_spinning": "0"}),
    "spinning": Settings(),
    "spinning for 100 us": Settings(entries={_DURATION: "100"}),
    "spinning for 500 us": Settings(entries={_DURATION: "500"}),
    "spinning inside a run only": Settings(entries={"session.force_spinning_stop": "1"}),
    "no memory arena": Settings(options={"enable_cpu_mem_arena": False}, entries=_SHORT),
    "no memory pattern": Settings(options={"enable_mem_pattern": False}, entries=_SHORT),
    "denormals as zero": Settings(entries=_SHORT | {"session.set_denormal_as_zero": "1"}),
    "parallel execution": Settings(
        options={"execution_mode": onnxruntime.ExecutionMode.ORT_PARALLEL}, entries=_SHORT
    ),
    "optimized without layouts": Settings(
        options={"graph_optimization_level": _LEVEL.ORT_ENABLE_EXTENDED}, entries=_SHORT
    ),
    "optimized a little": Settings(
        options={"graph_optimization_level": _LEVEL.ORT_ENABLE_BASIC}, entries=_SHORT
    ),
}


def load_network(name: str, full: bool) -> tuple[bytes, Iterator[Feed]]:
    """Return the exported file of a network, and inputs that differ from call to call."""
    if full:
        case = build_network(name)
        variants = case.variants
        inputs = variants.draw_inputs(onnx_export.TRACED_BATCH)
        graph = onnx_export.to_onnx(variants.onnxruntime, variants.model, inputs)
        names = [t.name for t in variants.model.inputs]
        feeds = [
            {name: x.numpy() for name, x in zip(names, case.inputs(number), strict=True)}
            for number in range(3)
        ]
        return graph.SerializeToString(), itertools.cycle(feeds)
    folder = default_repository() / "avatars"
    data = (folder / name / "1" / "model.onnx").read_bytes()
    rng = np.random.default_rng(0)

    def avatars() -> Iterator[Feed]:
        generator = Generator(256)  # only for latents of its kind
        w_plus, _ = latent_factory(generator)(1)
        for number in itertools.count():
            if name == "stylegan2":
                delta = rng.standard_normal((1, 3712), np.float32) * 0.1
                yield {"W_PLUS": w_plus.numpy() + rng.standard_normal(1, np.float32) * 0.1,
                       "DELTA": delta}  # fmt: skip
            elif name == "e4e":
                torch.manual_seed(number)
                yield {"FACE_CROP": random_faces(1)[0].numpy()}
            else:
                texts = ("a face", f"a face with {number} hats")
                rows = [template.format(text) for text in texts for template in TEMPLATES]
                yield {"TOKENS": tokenize(rows)}

    return data, avatars()


def time_call(call: Callable[[], Any]) -> tuple[float, float]:
    """Return the milliseconds of wall time and of CPU time."""
    start = time.perf_counter(), time.process_time()
    call()
    return (time.perf_counter() - start[0]) * 1000, (time.process_time() - start[1]) * 1000


def time_two_clients(sessions: list[onnxruntime.InferenceSession], feed: Feed) -> float:
    """Measure ms per run when two clients run twice each; an instance runs one at a time."""
    locks = [threading.Lock() for _ in sessions]

    def client(number: int) -> None:
        instance = number % len(sessions)
        for _ in range(2):
            with locks[instance]:
                sessions[instance].run(None, feed)

    clients = [threading.Thread(target=client, args=(number,)) for number in (0, 1)]
    start = time.perf_counter()
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    return (time.perf_counter() - start) * 1000 / 4


def compare(data: bytes, feeds: Iterator[Feed], repeat: int, names: list[str]) -> Iterator[Any]:
    """Yield (variant, medians of the served settings, medians of the variant)."""
    base = SERVED.sessions(data)
    for name in names:
        pair = (base, VARIANTS[name].sessions(data))
        rows: tuple[list[Any], list[Any]] = ([], [])
        for number in range(repeat + 1):  # the first is a warm-up
            feed = next(feeds)
            for sessions, times in zip(pair, rows, strict=True):
                single = time_call(lambda s=sessions, f=feed: s[0].run(None, f))  # type: ignore[misc]
                concurrent = time_two_clients(sessions, feed)
                if number:
                    times.append((*single, concurrent))
        yield name, *([statistics.median(c) for c in zip(*t, strict=True)] for t in rows)


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--networks", default=",".join(NETWORKS))
@click.option("--variants", default=",".join(VARIANTS))
@click.option("--full", is_flag=True, help="Full size, random weights.")
@click.option("--repeat", default=8, type=click.IntRange(1))
def main(networks: str, variants: str, full: bool, repeat: int) -> None:
    """Compare settings of ONNX Runtime."""
    for option, known in ((networks, NETWORKS), (variants, VARIANTS)):
        for name in option.split(","):
            if name not in known:
                raise click.BadParameter(f"{name!r} is not one of {', '.join(known)}")
    console = Console()
    for network_name in networks.split(","):
        table = Table(box=None, title=f"{network_name}{', full size' if full else ', avatars'}")
        for title in ("setting", "ms", "ratio", "ms of CPU", "ratio", "ms, two clients", "ratio"):
            table.add_column(title, justify="left" if title == "setting" else "right")
        data, feeds = load_network(network_name, full)
        for name, base, variant in compare(data, feeds, repeat, variants.split(",")):
            cells = [f"{x:.1f} {x / b:.2f}" for b, x in zip(base, variant, strict=True)]
            table.add_row(name, *" ".join(cells).split())
        console.print(table)


if __name__ == "__main__":
    main()
