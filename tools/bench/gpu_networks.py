"""`make bench-gpu`: the networks at full size, eager PyTorch as published against this project's.

A row is one network in one variant, dtype and batch size: the median time over different inputs,
by CUDA events after a warm-up, and the PSNR against the published variant in float32. Weights are
random: speed does not depend on them. `--device cpu --small` tries the program without a GPU.
"""

from __future__ import annotations

import csv
import json
import statistics
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.stylegan2 import Generator, feature_channels
from styleclip_server.engines.cuda.cuda_graphs import Graphed
from tools.bench import baseline

OUT = Path(__file__).resolve().parents[2] / "out" / "bench-gpu"
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
VARIANTS = ("published", "eager", "graph", "compile", "compile+graph", "served")
PROMPTS = 79
EXAMPLES = 4  # different inputs, used in turn
# Milliseconds per image (per call for clip_text) that the project aims at, on one H200.
TARGETS = {("stylegan2", 1): 1.0, ("stylegan2", 8): 0.5, ("e4e", 1): 2.5, ("e4e", 8): 0.5,
           ("clip_text", 2): 3.0}  # fmt: skip

Call = Callable[..., Tensor]


@dataclass(frozen=True)
class NetworkCase:
    """A network in each of its variants, and its inputs for a batch size."""

    name: str
    published: Call
    ours: Callable[[torch.dtype], Call]
    served: Callable[[], Call]  # as `styleclip_server.engines.cuda` runs it
    example: Callable[[int], tuple[Tensor, ...]]
    batches: tuple[int, ...]


@dataclass(frozen=True)
class Measurement:
    """One measurement; `psnr` in dB against the published variant in float32."""

    network: str
    variant: str
    dtype: str
    batch: int
    ms: float
    per_item: float
    psnr: float


def build_cases(batches: tuple[int, ...], device: str, small: bool) -> Iterator[NetworkCase]:
    """Return the three networks, at full size or tiny."""
    torch.manual_seed(0)
    yield _stylegan2(batches, device, small)
    yield _e4e(batches, device, small)
    yield _clip(device, small)


def _stylegan2(batches: tuple[int, ...], device: str, small: bool) -> NetworkCase:
    widths = feature_channels(64, 256, 16) if small else None
    generator = Generator(64 if small else 1024, widths).eval().to(device)
    generator.set_upsampling("folded" if device == "cuda" else "transposed")
    generator.input.to(memory_format=torch.channels_last)

    def example(batch: int) -> tuple[Tensor, ...]:
        z = torch.randn(batch * generator.num_latents, generator.w_dim, device=device)
        delta = 0.1 * torch.randn(batch, sum(generator.style_channels), device=device)
        return generator.mapping(z).unflatten(0, (batch, -1)), delta

    def ours(dtype: torch.dtype) -> Call:
        def call(w_plus: Tensor, delta: Tensor) -> Tensor:
            pairs = zip(generator.affine(w_plus), generator.split_styles(delta), strict=True)
            image = generator.synthesis([s + d for s, d in pairs], dtype)
            return ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)

        return call

    def published(w_plus: Tensor, delta: Tensor) -> Tensor:
        return baseline.generate(generator, w_plus, delta)

    def served() -> Call:
        from styleclip_server.engines.cuda.stylegan2 import CudaGenerator

        return CudaGenerator(_weights(generator, "generator."), device)

    return NetworkCase("stylegan2", published, ours, served, example, batches)


def _weights(module: nn.Module, prefix: str) -> dict[str, Any]:
    """Return the parameters as the exported ONNX file names them."""
    return {prefix + name: value.cpu().numpy() for name, value in module.state_dict().items()}


def _e4e(batches: tuple[int, ...], device: str, small: bool) -> NetworkCase:
    def encoder() -> nn.Module:
        torch.manual_seed(1)
        if small:
            return Encoder4Editing(8, (8, 16, 24, 32), (1, 1, 2, 1), 16, 48).eval().to(device)
        return Encoder4Editing().eval().to(device)

    def ours(dtype: torch.dtype) -> Call:
        module = encoder().to(dtype).to(memory_format=torch.channels_last)
        return lambda face: module(
            face.to(dtype).contiguous(memory_format=torch.channels_last)
        ).float()

    def example(batch: int) -> tuple[Tensor, ...]:
        return (torch.rand(batch, 3, 256, 256, device=device) * 2 - 1,)

    def served() -> Call:
        from styleclip_server.engines.cuda.e4e import CudaEncoder

        return CudaEncoder(_weights(encoder(), "encoder."), device)

    return NetworkCase("e4e", encoder(), ours, served, example, batches)


def _clip(device: str, small: bool) -> NetworkCase:
    def clip() -> CLIP:
        torch.manual_seed(2)
        sizes: dict[str, Any] = {"vision_layers": 1, "vision_width": 64, "vision_heads": 1}
        if small:
            sizes |= {"transformer_width": 64, "transformer_layers": 2, "transformer_heads": 1}
        return CLIP(64 if small else 512, **sizes).eval().to(device)

    def example(texts: int) -> tuple[Tensor, ...]:
        tokens = torch.zeros(texts * PROMPTS, 77, dtype=torch.long, device=device)
        tokens[:, 0] = 49406
        for row in tokens:
            length = int(torch.randint(8, 17, ()))  # templates have 4 to 10 words
            row[1:length] = torch.randint(300, 40_000, (length - 1,))
            row[length] = 49407
        return (tokens,)

    def ours(dtype: torch.dtype) -> Call:
        module = clip().to(dtype)
        longest = 18  # as the longest text of the example; the engine finds it itself
        return lambda tokens: module.encode_text(tokens[:, :longest]).float()

    def served() -> Call:
        from styleclip_server.engines.cuda.clip_text import CudaTextEncoder

        encoder = CudaTextEncoder(_weights(clip(), "clip."), device)
        return lambda tokens: encoder(tokens[:, :24].int())  # cut as a request to the server is

    return NetworkCase("clip_text", clip().encode_text, ours, served, example, (2,))


@torch.inference_mode()
def measure(
    case: NetworkCase, variant: str, dtype: str, batch: int, repeat: int, device: str
) -> Measurement:
    """Measure one row. Raises PyTorch's error if the variant cannot run."""
    examples = [case.example(batch) for _ in range(EXAMPLES)]
    if variant == "published":
        call = case.published
    elif variant == "served":
        call = case.served()
    else:
        call = case.ours(DTYPES[dtype])
    if "compile" in variant:
        call = torch.compile(call, dynamic=False)
    if "graph" in variant or variant == "served":
        call = Graphed(call, torch.device(device))
    accuracy = psnr(call(*examples[-1]), case.published(*examples[-1]))
    for inputs in examples:  # warm
        call(*inputs)
    timed = cuda_ms if device == "cuda" else wall_ms
    ms = statistics.median(timed(call, examples[i % EXAMPLES]) for i in range(repeat))
    return Measurement(case.name, variant, dtype, batch, ms, ms / batch, accuracy)


def cuda_ms(call: Call, inputs: tuple[Tensor, ...]) -> float:
    start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call(*inputs)
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop))


def wall_ms(call: Call, inputs: tuple[Tensor, ...]) -> float:
    began = time.perf_counter()
    call(*inputs)
    return (time.perf_counter() - began) * 1000


def psnr(output: Tensor, expected: Tensor) -> float:
    """Return dB, at most 120; the peak is 255 for pixels, the largest magnitude for features."""
    peak = 255.0 if expected.dtype == torch.uint8 else expected.abs().max().item()
    error = (output.double() - expected.double()).square().mean().item()
    return min(120.0, 10 * torch.log10(torch.tensor(peak**2 / max(error, 1e-30))).item())


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda")
@click.option("--small", is_flag=True, help="Tiny networks, to try the program.")
@click.option("--batches", default="1,2,4,8,16,32")
@click.option("--variants", default=",".join(VARIANTS))
@click.option("--dtypes", default=",".join(DTYPES))
@click.option("--repeat", default=30, type=click.IntRange(1), help="Timed calls of each row.")
def main(device: str, small: bool, batches: str, variants: str, dtypes: str, repeat: int) -> None:
    """Measure the networks in PyTorch: as published, and every variant that the device can run."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("PyTorch sees no GPU here; `--device cpu --small` tries it")
    measured = list(_list_variants(_choices(variants, VARIANTS), _choices(dtypes, DTYPES), device))
    console = Console()
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows: list[Measurement] = []
    with torch.inference_mode():
        for case in build_cases(tuple(map(int, batches.split(","))), device, small):
            for variant, dtype in measured:
                for batch in case.batches:
                    try:
                        rows.append(measure(case, variant, dtype, batch, repeat, device))
                    except (RuntimeError, torch.OutOfMemoryError) as error:
                        reason = str(error).strip().splitlines()[0][:100]
                        message = f"{case.name} {variant} {dtype}, batch {batch}: {reason}"
                        console.print(message, style="yellow", highlight=False)
    _print_table(console, rows)
    _write(rows, torch.cuda.get_device_name() if device == "cuda" else "CPU", small)


def _choices(text: str, allowed: Collection[str]) -> list[str]:
    """Return the values of a comma-separated option."""
    values = text.split(",")
    if unknown := [value for value in values if value not in allowed]:
        raise click.BadParameter(f"{unknown[0]!r} is none of {', '.join(allowed)}")
    return values


def _list_variants(
    variants: list[str], dtypes: list[str], device: str
) -> Iterator[tuple[str, str]]:
    """Return the variants that `device` can run, each with its dtypes."""
    fixed = {"published": ["fp32"], "served": ["fp16"]}
    for variant in variants:
        if device == "cuda" or not ("graph" in variant or variant == "served"):
            for dtype in fixed.get(variant, dtypes):
                yield variant, dtype


def _print_table(console: Console, rows: list[Measurement]) -> None:
    published = {(r.network, r.batch): r.ms for r in rows if r.variant == "published"}
    table = Table(box=None)
    for name in ("network", "variant", "dtype", "batch", "ms", "ms each", "faster", "target", "dB"):
        table.add_column(name, justify="left" if name in ("network", "variant") else "right")
    for r in rows:
        base, target = published.get((r.network, r.batch)), TARGETS.get((r.network, r.batch))
        table.add_row(
            r.network, r.variant, r.dtype, str(r.batch), f"{r.ms:.2f}", f"{r.per_item:.2f}",
            f"{base / r.ms:.1f}x" if base else "", f"{target:g}" if target else "", f"{r.psnr:.0f}",
        )  # fmt: skip
    console.print(table)


def _write(rows: list[Measurement], device: str, small: bool) -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    stem = OUT / time.strftime("%Y%m%d-%H%M%S")
    about = {"device": device, "torch": torch.__version__, "small": small}
    text = json.dumps({**about, "rows": [asdict(r) for r in rows]}, indent=1)
    stem.with_suffix(".json").write_text(text + "\n")
    with stem.with_suffix(".csv").open("w", newline="") as file:
        table = csv.DictWriter(file, Measurement.__dataclass_fields__)
        table.writeheader()
        table.writerows(asdict(r) for r in rows)
    print(f"written: {stem}.json and .csv")


if __name__ == "__main__":
    main()
