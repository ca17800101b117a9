"""What fs3 costs at full size: the time of a few channels of every layer, and from it of all 6,048.

The rows of a layer all cost the same, so a few of each layer, timed warm, give the whole: `--whole`
computes every row and shows it, in as many processes as there are GPUs. Beside it stands the floor,
the arithmetic that cannot be avoided (everything that follows the changed layer, and CLIP's image
tower) at the card's peak. Weights are random, speed does not depend on them. `--device cpu --small`
tries the program without a GPU.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from styleclip_export.statistics.fs3 import Fs3Rule, fs3_rows, style_moments
from styleclip_export.statistics.job import compute_part, image_encoder, merge, part_path
from styleclip_networks import CLIP, Generator
from styleclip_networks.stylegan2 import channels_by_base

OUT = Path(__file__).resolve().parents[2] / "out" / "bench-fs3"
FORMS = ("fused", "folded", "transposed")  # the first: the server's GPU kernels


@dataclass(frozen=True)
class Measured:
    """One way of computing fs3. `seconds`: of all rows; `floor`: the same at the card's peak."""

    preview: int
    form: str
    batch: int
    seconds: float
    images_per_second: float
    floor: float
    gib: float
    preparing: float  # compiling, choosing algorithms, what is computed once


def networks(device: str, small: bool) -> tuple[Generator, CLIP]:
    """Generator and CLIP of random weights, as published in size or tiny."""
    torch.manual_seed(0)
    with torch.device(device):
        generator = Generator(
            64 if small else 1024, channels_by_base(64, 256, 16) if small else None
        )
        tower = {"vision_layers": 1, "vision_width": 64, "vision_heads": 1} if small else {}
        clip = CLIP(512, transformer_layers=1, vocab_size=9, **tower)  # texts play no part
    for name, parameter in generator.named_parameters():
        if name.endswith("noise.weight"):
            parameter.data.fill_(0.1)
    return generator.eval().requires_grad_(False), clip.eval().requires_grad_(False)


def macs(generator: Generator) -> list[int]:
    """Multiply-accumulates of each of `generator.layers` for one picture; the blur left out."""
    found = []
    for layer in generator.layers:
        conv = generator.get_submodule(layer.name).conv
        out, taps = conv.weight.shape[1], conv.weight.shape[3] ** 2
        side = layer.resolution // 2 if conv.upsample else layer.resolution
        found.append(taps * layer.channels * out * side**2)
    return found


def clip_macs(clip: CLIP) -> int:
    """Multiply-accumulates of CLIP's image tower for one picture."""
    tokens, width = clip.visual.positional_embedding.shape
    layers = len(clip.visual.transformer.resblocks)
    return (tokens - 1) * clip.visual.conv1.weight.numel() + layers * (
        12 * tokens * width**2 + 2 * tokens**2 * width
    )


def arithmetic(generator: Generator, clip: CLIP, images: int, preview: int) -> tuple[float, float]:
    """FLOP of fs3's synthesis and of its CLIP features; `preview` 0: whole pictures."""
    costs, rows, synthesis = macs(generator), 0, 0
    for index, layer in enumerate(generator.layers):
        if layer.to_rgb:
            continue
        last = preview if preview and layer.resolution <= preview else generator.resolution
        follows = [
            cost
            for cost, later in zip(costs[index:], generator.layers[index:], strict=True)
            if later.resolution <= last
        ]
        rows += layer.channels
        synthesis += layer.channels * sum(follows)
    return 2.0 * 2 * images * synthesis, 2.0 * 2 * images * rows * clip_macs(clip)


def first_rows(generator: Generator) -> Iterator[tuple[int, int]]:
    """(first row of fs3, rows) of each convolution."""
    row = 0
    for layer in generator.layers:
        if not layer.to_rgb:
            yield row, layer.channels
            row += layer.channels


def _formed(generator: Generator, rule: Fs3Rule, form: str) -> Fs3Rule:
    generator.upsample_as("folded" if form == "fused" else form)  # type: ignore[arg-type]
    return replace(rule, fused=form == "fused")


def measure(
    generator: Generator, clip: CLIP, moments: tuple[np.ndarray, np.ndarray], rule: Fs3Rule,
    form: str, channels: int, peak: float,
) -> Measured:  # fmt: skip
    """Times `channels` rows of every layer, after one that is not counted."""
    cuda = next(generator.parameters()).is_cuda
    rule = _formed(generator, rule, form)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    layers = list(first_rows(generator))
    wanted = {first + i for first, rows in layers for i in range(min(channels + 1, rows))}
    firsts = dict(layers)
    times: dict[int, list[float]] = {}
    preparing, first = 0.0, 0
    began = time.perf_counter()
    for row, *_ in fs3_rows(generator, image_encoder(clip, rule.dtype), *moments, rule, wanted):
        passed = time.perf_counter() - began
        if row in firsts:
            first, preparing = row, preparing + passed
        else:
            times.setdefault(first, []).append(passed)
        began = time.perf_counter()
    seconds = sum(firsts[row] * statistics.median(found) for row, found in times.items())
    pictures = 2 * rule.num_images * sum(firsts.values())
    flop = sum(arithmetic(generator, clip, rule.num_images, rule.preview or 0))
    gib = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    return Measured(rule.preview or 0, form, rule.batch, seconds, pictures / seconds,
                    flop / peak / 1e12, gib, preparing)  # fmt: skip


def check(
    generator: Generator, clip: CLIP, moments: tuple[np.ndarray, np.ndarray], rule: Fs3Rule
) -> tuple[float, float]:
    """Least and median cosine between rows by `rule` and by the official one in float32, one row
    of each layer."""
    wanted = {first + 1 for first, _ in first_rows(generator)}
    generator.upsample_as("folded")
    exact = Fs3Rule(rule.num_images, batch=16)
    rows = []
    for each in (exact, rule):
        encode = image_encoder(clip, each.dtype)
        rows.append([d for _, d, _ in fs3_rows(generator, encode, *moments, each, wanted)])
    cosines = [float(a @ b) for a, b in zip(*rows, strict=True) if a is not None and b is not None]
    return min(cosines), statistics.median(cosines)


def _part(
    part: int, parts: int, device: str, small: bool, work: Path, rule: Fs3Rule, form: str
) -> None:
    """One process of `compute_whole`, on a GPU of its own."""
    if device == "cuda":
        torch.cuda.set_device(part)
    generator, clip = networks(device, small)
    compute_part(generator, clip, work, _formed(generator, rule, form), part=part, parts=parts,
                 samples=1000 if small else 100_000)  # fmt: skip


def compute_whole(device: str, small: bool, rule: Fs3Rule, form: str) -> dict[str, float]:
    """Every row of fs3, from nothing to the merged file, the rows split over all GPUs: seconds, and
    how far some rows are from those that a single process computes."""
    parts = torch.cuda.device_count() if device == "cuda" else 2
    with tempfile.TemporaryDirectory() as folder:
        work, target = Path(folder), Path(folder) / "statistics.npz"
        began = time.perf_counter()
        spawn = multiprocessing.get_context("spawn")
        processes = [spawn.Process(target=_part, args=(k, parts, device, small, work, rule, form))
                     for k in range(parts)]  # fmt: skip
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        done, rows = merge(work, [part_path(work, k, parts) for k in range(parts)], target)
        seconds = time.perf_counter() - began
        with np.load(target) as data:
            fs3, mean, std = (data[name] for name in ("fs3", "style_mean", "style_std"))
    generator, clip = networks(device, small)
    rule = _formed(generator, rule, form)
    some = {0, 1, rows // 2, rows - 1}
    off = max(float(np.abs(fs3[row] - direction).max())
              for row, direction, _ in fs3_rows(
                  generator, image_encoder(clip, rule.dtype), mean, std, rule, some)
              if direction is not None)  # fmt: skip
    return {"processes": parts, "rows": done, "seconds": seconds, "off": off}


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda")
@click.option("--small", is_flag=True, help="Tiny networks, to try the program.")
@click.option("--channels", default=4, type=click.IntRange(1), help="Timed rows of every layer.")
@click.option("--images", default=100, type=click.IntRange(1), help="Pictures of each row and end.")
@click.option(
    "--preview", "previews", multiple=True, type=int, default=(256, 0), help="0: whole pictures."
)
@click.option("--form", "forms", multiple=True, type=click.Choice(FORMS), default=FORMS[:1])
@click.option("--batch", type=int, help="[default: 200 for previews up to 256 px, else 50]")
@click.option("--half/--no-half", default=True, help="float16, or float32.")
@click.option("--repeatable", is_flag=True, help="cuDNN's advice in place of trials.")
@click.option("--peak", default=740.0, help="TFLOP/s that the card reaches in matrix products.")
@click.option("--check/--no-check", "checked", default=True, help="Compare rows with float32.")
@click.option("--whole", is_flag=True, help="Compute every row in the fastest way found.")
def main(
    device: str, small: bool, channels: int, images: int, previews: tuple[int, ...],
    forms: tuple[str, ...], batch: int | None, half: bool, repeatable: bool, peak: float,
    checked: bool, whole: bool,
) -> None:  # fmt: skip
    """Measure fs3 (±5 deviations of every StyleSpace channel) at full size."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("PyTorch sees no GPU here; `--device cpu --small` tries it")
    console = Console(width=120)
    torch.backends.cudnn.benchmark = not repeatable
    torch.backends.cudnn.allow_tf32 = False
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    generator, clip = networks(device, small)
    began = time.perf_counter()
    mean, std, _ = style_moments(generator, 1000 if small else 100_000)
    took = time.perf_counter() - began
    rows = sum(rows for _, rows in first_rows(generator))
    console.print(f"{name}, torch {torch.__version__}; moments of S: {took:.1f} s; {rows} rows, "
                  f"{2 * images * rows} pictures", highlight=False)  # fmt: skip

    def rule(preview: int, **changed: object) -> Fs3Rule:
        settings: dict[str, object] = {
            "num_images": images,
            "batch": batch or (200 if 0 < preview <= 256 else 50),
            "dtype": torch.float16 if half else torch.float32,
            "preview": preview or None,
            "repeatable": repeatable,
        }
        return Fs3Rule(**settings | changed)  # type: ignore[arg-type]

    for preview in previews:
        synthesis, features = arithmetic(generator, clip, images, preview)
        console.print(
            f"floor, {f'preview {preview} px' if preview else 'whole pictures'}: "
            f"{synthesis / 1e15:.2f} PFLOP of synthesis ({synthesis / peak / 1e12:.0f} s at "
            f"{peak:g} TFLOP/s) + {features / 1e15:.2f} of CLIP ({features / peak / 1e12:.0f} s)",
            highlight=False,
        )  # fmt: skip
    table = Table("preview", "form", "batch", "s", "images/s", "floor s", "of peak", "GiB",
                  "preparing s", box=None)  # fmt: skip
    results: list[Measured] = []
    for preview in previews:
        for form in forms:
            try:
                m = measure(generator, clip, (mean, std), rule(preview), form, channels, peak)
            except (RuntimeError, torch.OutOfMemoryError) as error:
                console.print(f"{preview} {form}: {str(error).splitlines()[0]}", style="yellow")
                continue
            results.append(m)
            cells = (f"{preview or 'none'}", form, str(m.batch), f"{m.seconds:.0f}",
                     f"{m.images_per_second:.0f}", f"{m.floor:.0f}", f"{m.floor / m.seconds:.0%}",
                     f"{m.gib:.1f}", f"{m.preparing:.0f}")  # fmt: skip
            table.add_row(*cells)
            console.print(" ".join(cells), style="dim", highlight=False)
    console.print(table)
    cosines = {}
    if checked:
        for preview in dict.fromkeys((0, *previews)):
            changed = replace(rule(preview, num_images=8, batch=16), fused=forms[0] == FORMS[0])
            cosines[preview] = check(generator, clip, (mean, std), changed)
            least, median = cosines[preview]
            console.print(
                f"one row of each layer, 8 images, {'float16' if half else 'float32'}, preview "
                f"{preview or 'none'}, against the official rule in float32: cosine at least "
                f"{least:.4f}, median {median:.4f}", highlight=False,
            )  # fmt: skip
    about: dict[str, object] = {"device": name, "torch": torch.__version__, "small": small,
                                "images": images, "cosines": cosines}  # fmt: skip
    if whole and results:
        best = min(results, key=lambda m: m.seconds)
        del generator, clip
        told = compute_whole(device, small, rule(best.preview, batch=best.batch), best.form)
        about["whole"] = {**asdict(best), **told}
        console.print(
            f"every row ({told['rows']}), preview {best.preview or 'none'}, {best.form}: "
            f"{told['seconds']:.0f} s with all it takes, in {told['processes']} processes; of one "
            f"process alone some rows differ by {told['off']:.1e} at most", highlight=False,
        )  # fmt: skip
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps({**about, "rows": [asdict(m) for m in results]}, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
