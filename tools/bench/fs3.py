"""The time of fs3 at full size, estimated from a few channels of every layer.

All channels of a layer take the same time, so a few of each, timed warm, give that of all 6,048.
`--whole` computes every row, in as many processes as there are GPUs. The floor is the arithmetic
that cannot be avoided (everything from the changed layer on, and CLIP's image encoder) at the
card's peak. Weights are random, which does not change the speed. `--device cpu --small` tries the
program without a GPU.
"""

from __future__ import annotations

import itertools
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

from styleclip_export.statistics.fs3 import Fs3Settings, fs3_channels, fs3_rows
from styleclip_export.statistics.image_features import ImageFeatures
from styleclip_export.statistics.job import StatisticsJob
from styleclip_export.statistics.moments import style_moments
from styleclip_networks.clip import CLIP
from styleclip_networks.stylegan2 import Generator, feature_channels

OUT = Path(__file__).resolve().parents[2] / "out" / "bench-fs3"
# How the synthesis is computed: on the server's CUDA kernels, or in PyTorch, see `UpsamplingMode`.
VARIANTS = ("kernels", "folded", "transposed")


@dataclass(frozen=True)
class Measurement:
    """One way of computing fs3.

    Attributes:
        preview: side in pixels; 0 means full images.
        variant: see VARIANTS.
        seconds: of all rows.
        floor: seconds of the arithmetic alone at the card's peak.
        gib: peak GPU memory.
        setup_seconds: seconds for compiling and for what is computed once.
    """

    preview: int
    variant: str
    batch: int
    seconds: float
    images_per_second: float
    floor: float
    gib: float
    setup_seconds: float


def build_networks(device: str, small: bool) -> tuple[Generator, CLIP]:
    """Build generator and CLIP with random weights, of the published size or tiny."""
    torch.manual_seed(0)
    with torch.device(device):
        generator = Generator(
            64 if small else 1024, feature_channels(64, 256, 16) if small else None
        )
        vision = {"vision_layers": 1, "vision_width": 64, "vision_heads": 1} if small else {}
        clip = CLIP(512, transformer_layers=1, vocab_size=9, **vision)  # texts are not encoded
    for name, parameter in generator.named_parameters():
        if name.endswith("noise.weight"):
            parameter.data.fill_(0.1)
    return generator.eval().requires_grad_(False), clip.eval().requires_grad_(False)


def count_macs(generator: Generator) -> list[int]:
    """Count the multiply-accumulates of each `generator.layers` for one image, but not the blur."""
    costs = []
    for layer in generator.layers:
        conv = generator.get_submodule(layer.name).conv
        out, taps = conv.weight.shape[1], conv.weight.shape[3] ** 2
        side = layer.resolution // 2 if conv.upsample else layer.resolution
        costs.append(taps * layer.channels * out * side**2)
    return costs


def count_clip_macs(clip: CLIP) -> int:
    """Count the multiply-accumulates of CLIP's image encoder for one image."""
    tokens, width = clip.visual.positional_embedding.shape
    layers = len(clip.visual.transformer.resblocks)
    return (tokens - 1) * clip.visual.conv1.weight.numel() + layers * (
        12 * tokens * width**2 + 2 * tokens**2 * width
    )


def count_flop(generator: Generator, clip: CLIP, images: int, preview: int) -> tuple[float, float]:
    """Count the FLOP of fs3's synthesis and of its CLIP features; `preview` 0: full images."""
    costs, rows, synthesis = count_macs(generator), 0, 0
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
    return 2.0 * 2 * images * synthesis, 2.0 * 2 * images * rows * count_clip_macs(clip)


def first_rows(generator: Generator) -> Iterator[tuple[int, int]]:
    """Yield (first row of fs3, number of rows) of each convolution."""
    row = 0
    for layer in generator.layers:
        if not layer.to_rgb:
            yield row, layer.channels
            row += layer.channels


def _apply_variant(generator: Generator, settings: Fs3Settings, variant: str) -> Fs3Settings:
    """Select a variant, see VARIANTS; return the settings for it."""
    generator.set_upsampling("folded" if variant == "kernels" else variant)  # type: ignore[arg-type]
    return replace(settings, use_kernels=variant == "kernels")


def measure(
    generator: Generator, clip: CLIP, moments: tuple[np.ndarray, np.ndarray],
    settings: Fs3Settings, variant: str, channels: int, peak: float,
) -> Measurement:  # fmt: skip
    """Time `channels` rows of every layer, after one warm-up row."""
    cuda = next(generator.parameters()).is_cuda
    settings = _apply_variant(generator, settings, variant)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    layers = list(first_rows(generator))
    requested = {first + i for first, rows in layers for i in range(min(channels + 1, rows))}
    layer_rows = dict(layers)
    times: dict[int, list[float]] = {}
    setup_seconds, first = 0.0, 0
    encode = ImageFeatures(clip, settings.dtype)
    start = time.perf_counter()
    for row, *_ in fs3_rows(generator, encode, *moments, settings, requested):
        elapsed = time.perf_counter() - start
        if row in layer_rows:
            first, setup_seconds = row, setup_seconds + elapsed
        else:
            times.setdefault(first, []).append(elapsed)
        start = time.perf_counter()
    seconds = sum(layer_rows[row] * statistics.median(taken) for row, taken in times.items())
    images = 2 * settings.num_images * sum(layer_rows.values())
    flop = sum(count_flop(generator, clip, settings.num_images, settings.preview or 0))
    gib = torch.cuda.max_memory_allocated() / 2**30 if cuda else 0.0
    return Measurement(settings.preview or 0, variant, settings.batch, seconds, images / seconds,
                    flop / peak / 1e12, gib, setup_seconds)  # fmt: skip


def check(
    generator: Generator, clip: CLIP, moments: tuple[np.ndarray, np.ndarray],
    settings: Fs3Settings,
) -> tuple[float, float]:  # fmt: skip
    """Compare one row per layer with the official rule in float32.

    Returns:
        The least and the median cosine.
    """
    requested = {first + 1 for first, _ in first_rows(generator)}
    generator.set_upsampling("folded")
    official = Fs3Settings(settings.num_images, batch=16)
    directions = []
    for variant in (official, settings):
        encode = ImageFeatures(clip, variant.dtype)
        rows = fs3_rows(generator, encode, *moments, variant, requested)
        directions.append([row.direction for row in rows])
    pairs = zip(*directions, strict=True)
    cosines = [float(a @ b) for a, b in pairs if a is not None and b is not None]
    return min(cosines), statistics.median(cosines)


def _compute_part(
    part: int, parts: int, device: str, small: bool, work: Path, settings: Fs3Settings, variant: str
) -> None:
    """Compute one part for `compute_all_rows`, on a GPU of its own."""
    if device == "cuda":
        torch.cuda.set_device(part)
    _job(parts, device, small, work, settings, variant).compute_part(part)


def _job(
    parts: int, device: str, small: bool, work: Path, settings: Fs3Settings, variant: str
) -> StatisticsJob:
    generator, clip = build_networks(device, small)
    settings = _apply_variant(generator, settings, variant)
    samples = 1000 if small else 100_000
    return StatisticsJob(generator, clip, work, settings, samples=samples, parts=parts)


def compute_all_rows(
    device: str, small: bool, settings: Fs3Settings, variant: str
) -> dict[str, float]:
    """Compute all rows of fs3, up to the merged file, in one process per GPU.

    Returns:
        processes, rows, seconds, and `off`: the largest difference of some rows from those that a
        single process computes.
    """
    parts = torch.cuda.device_count() if device == "cuda" else 2
    with tempfile.TemporaryDirectory() as folder:
        work, target = Path(folder), Path(folder) / "statistics.npz"
        start = time.perf_counter()
        spawn = multiprocessing.get_context("spawn")
        options = (parts, device, small, work, settings, variant)
        processes = [spawn.Process(target=_compute_part, args=(k, *options)) for k in range(parts)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        job = _job(*options)
        done, rows = job.merge(target)
        seconds = time.perf_counter() - start
        with np.load(target) as data:
            fs3, mean, std = (data[name] for name in ("fs3", "style_mean", "style_std"))
    encode = ImageFeatures(job.clip, settings.dtype)
    some = {0, 1, rows // 2, rows - 1}
    alone = fs3_rows(job.generator, encode, mean, std, job.settings, some)
    off = max(
        float(np.abs(fs3[row] - direction).max())
        for row, direction, _ in alone
        if direction is not None
    )
    return {"processes": parts, "rows": done, "seconds": seconds, "off": off}


@dataclass(frozen=True)
class Bench:
    """The networks to measure, and how.

    Attributes:
        moments: mean and standard deviation of S.
        settings: of fs3 with full images; see `settings_for`.
        peak: TFLOP/s of the card.
    """

    generator: Generator
    clip: CLIP
    moments: tuple[np.ndarray, np.ndarray]
    settings: Fs3Settings
    batch: int | None
    peak: float
    console: Console

    def settings_for(self, preview: int) -> Fs3Settings:
        """Return the settings with a preview (0 means full images), and a batch that fits."""
        batch = self.batch or (200 if 0 < preview <= 256 else 50)
        return replace(self.settings, preview=preview or None, batch=batch)

    def print_floor(self, preview: int) -> None:
        """Print the arithmetic and its time at the card's peak."""
        images = self.settings.num_images
        synthesis, features = count_flop(self.generator, self.clip, images, preview)
        self.console.print(
            f"floor, {f'preview {preview} px' if preview else 'full images'}: "
            f"{synthesis / 1e15:.2f} PFLOP of synthesis "
            f"({synthesis / self.peak / 1e12:.0f} s at {self.peak:g} TFLOP/s) + "
            f"{features / 1e15:.2f} of CLIP ({features / self.peak / 1e12:.0f} s)",
            highlight=False,
        )

    def measure_all(
        self, previews: tuple[int, ...], variants: tuple[str, ...], channels: int
    ) -> list[Measurement]:
        """Measure every preview in every variant, and print a table."""
        table = Table("preview", "variant", "batch", "s", "images/s", "floor s", "of peak", "GiB",
                      "preparing s", box=None)  # fmt: skip
        results: list[Measurement] = []
        for preview, variant in itertools.product(previews, variants):
            try:
                m = measure(self.generator, self.clip, self.moments, self.settings_for(preview),
                            variant,
                            channels, self.peak)  # fmt: skip
            except (RuntimeError, torch.OutOfMemoryError) as error:
                self.console.print(f"{preview} {variant}: {str(error).splitlines()[0]}")
                continue
            results.append(m)
            cells = (f"{preview or 'none'}", variant, str(m.batch), f"{m.seconds:.0f}",
                     f"{m.images_per_second:.0f}", f"{m.floor:.0f}", f"{m.floor / m.seconds:.0%}",
                     f"{m.gib:.1f}", f"{m.setup_seconds:.0f}")  # fmt: skip
            table.add_row(*cells)
            self.console.print(" ".join(cells), style="dim", highlight=False)
        self.console.print(table)
        return results

    def check_all(self, previews: tuple[int, ...], variant: str) -> dict[int, tuple[float, float]]:
        """Compare rows of every preview with the official rule; see `check`."""
        cosines = {}
        for preview in dict.fromkeys((0, *previews)):
            few = replace(self.settings_for(preview), num_images=8, batch=16,
                          use_kernels=variant == "kernels")  # fmt: skip
            cosines[preview] = check(self.generator, self.clip, self.moments, few)
            least, median = cosines[preview]
            self.console.print(
                f"one row of each layer, 8 images, {few.dtype}, preview {preview or 'none'}, "
                f"against the official rule in float32: cosine at least {least:.4f}, median "
                f"{median:.4f}",
                highlight=False,
            )
        return cosines


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--device", type=click.Choice(["cuda", "cpu"]), default="cuda")
@click.option("--small", is_flag=True, help="Tiny networks, to try the program.")
@click.option("--channels", default=4, type=click.IntRange(1), help="Timed rows of every layer.")
@click.option("--images", default=100, type=click.IntRange(1), help="Images of each row and end.")
@click.option(
    "--preview", "previews", multiple=True, type=int, default=(256, 0), help="0: full images."
)
@click.option("--variant", "variants", multiple=True, type=click.Choice(VARIANTS),
              default=VARIANTS[:1])  # fmt: skip
@click.option("--batch", type=int, help="[default: 200 for previews up to 256 px, else 50]")
@click.option("--half/--no-half", default=True, help="float16, or float32.")
@click.option("--peak", default=740.0, help="TFLOP/s that the card reaches in matmuls.")
@click.option("--check/--no-check", "checked", default=True, help="Compare rows with float32.")
@click.option("--whole", is_flag=True, help="Compute every row in the fastest way.")
def main(
    device: str, small: bool, channels: int, images: int, previews: tuple[int, ...],
    variants: tuple[str, ...], batch: int | None, half: bool, peak: float,
    checked: bool, whole: bool,
) -> None:  # fmt: skip
    """Measure fs3 (±5 deviations of every StyleSpace channel) at full size."""
    if device == "cuda" and not torch.cuda.is_available():
        raise click.ClickException("PyTorch sees no GPU here; `--device cpu --small` tries it")
    console = Console(width=120)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # as `StatisticsJob` sets it
    name = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    generator, clip = build_networks(device, small)
    start = time.perf_counter()
    settings = Fs3Settings(images, dtype=torch.float16 if half else torch.float32)
    samples = 1000 if small else 100_000
    mean, std, _ = style_moments(generator, samples, truncation=settings.truncation)
    elapsed = time.perf_counter() - start
    rows = len(fs3_channels(generator))
    console.print(f"{name}, torch {torch.__version__}; moments of S: {elapsed:.1f} s; {rows} rows, "
                  f"{2 * images * rows} images", highlight=False)  # fmt: skip

    bench = Bench(generator, clip, (mean, std), settings, batch, peak, console)
    for preview in previews:
        bench.print_floor(preview)
    results = bench.measure_all(previews, variants, channels)
    cosines = bench.check_all(previews, variants[0]) if checked else {}
    report: dict[str, object] = {"device": name, "torch": torch.__version__, "small": small,
                                 "images": images, "cosines": cosines}  # fmt: skip
    if whole and results:
        best = min(results, key=lambda m: m.seconds)
        fastest = replace(bench.settings_for(best.preview), batch=best.batch)
        del generator, clip, bench  # their memory, for the processes
        run = compute_all_rows(device, small, fastest, best.variant)
        report["whole"] = {**asdict(best), **run}
        console.print(
            f"all {run['rows']} rows, preview {best.preview or 'none'}, {best.variant}: "
            f"{run['seconds']:.0f} s in all, in {run['processes']} processes; some rows differ by "
            f"{run['off']:.1e} at most from those of a single process",
            highlight=False,
        )
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    path.write_text(json.dumps({**report, "rows": [asdict(m) for m in results]}, indent=1) + "\n")
    print(f"written: {path}")


if __name__ == "__main__":
    main()
