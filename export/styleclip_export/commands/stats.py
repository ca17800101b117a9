"""`styleclip-export stats`."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from styleclip_export.commands.network_files import (
    find_files,
    network_file_options,
    read_statistics,
)
from styleclip_export.commands.progress import peak_memory_mib
from styleclip_server.pipeline.style_statistics import STATISTICS_FILE

if TYPE_CHECKING:
    from styleclip_export.statistics.fs3 import Fs3Settings
    from styleclip_export.statistics.job import StatisticsJob

RAY_PARTS = 48  # tasks of a run with --ray

_PATH = click.Path(path_type=Path)
_BATCH = "Images synthesized at once. [default: 8; on a GPU 50, with a preview up to 256 px 200]"
_PREVIEW = "CLIP sees the generator's RGB at this resolution; see docs/checkpoints.md."
_PART = "K/N: only part K of N, for several GPUs or hosts; the last to finish joins them."
_RAY = "Compute on a Ray cluster, one task per GPU: its address, `auto`, or `local` (this machine)."


def _parse_part(context: click.Context, option: click.Parameter, text: str) -> tuple[int, int]:
    """Parse "K/N"."""
    part, _, parts = text.partition("/")
    if not (part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise click.BadParameter("K/N with K from 0 to N - 1 is expected")
    return int(part), int(parts)


@click.command(name="stats")
@click.argument("domain", default="ffhq")
@network_file_options
@click.option("--repository", type=_PATH, default=Path("model_repository"), show_default=True)
@click.option("--work", type=_PATH, help="Where parts are kept. [default: WEIGHTS/statistics]")
@click.option("--compute", is_flag=True, help="Compute them, though somebody published them.")
@click.option("--samples", default=100_000, show_default=True, help="For mean and deviation of S.")
@click.option("--images", default=100, show_default=True, help="Images for each channel of fs3.")
@click.option("--batch", type=click.IntRange(1), help=_BATCH)
@click.option("--half", is_flag=True, help="float16; on a GPU with the server's kernels.")
@click.option("--preview", type=int, metavar="PIXELS", help=_PREVIEW)
@click.option("--device", help="cpu, cuda, cuda:1 … [default: a GPU where there is one]")
@click.option("--channels", type=int, metavar="N", help="Only the first N channels, as a trial.")
@click.option("--part", default="0/1", show_default=True, callback=_parse_part, help=_PART)
@click.option("--ray", "cluster", metavar="ADDRESS", help=_RAY)
def command(
    domain: str,
    generator: Path | None,
    encoder: Path | None,
    clip: Path | None,
    statistics: tuple[Path, ...],
    weights: Path | None,
    repository: Path,
    work: Path | None,
    compute: bool,
    samples: int,
    images: int,
    batch: int | None,
    half: bool,
    preview: int | None,
    device: str | None,
    channels: int | None,
    part: tuple[int, int],
    cluster: str | None,
) -> None:
    """Write the StyleSpace statistics of DOMAIN: mean and deviation of S, and fs3.

    Where StyleCLIP's published ones (fs3.npy and S_mean_std) are there and belong to the generator,
    they are taken; else they are computed, which takes weeks on a CPU and minutes on a GPU. The
    command says how long before it starts, can be interrupted at any time, and continues where it
    was.
    """
    import torch

    if cluster and find_spec("ray") is None:
        raise click.UsageError("--ray needs Ray: pip install 'styleclip-triton[ray]'")
    from styleclip_export.checkpoints.domain_files import read_domain
    from styleclip_export.statistics.job import StatisticsJob, write_statistics

    console = Console()
    weights = weights or Path("weights") / domain
    index, parts = (0, RAY_PARTS) if cluster else part
    target_device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    on_gpu = target_device.type == "cuda"
    start = time.monotonic()
    files = find_files(weights, generator, encoder, clip, statistics)
    networks = read_domain(files)
    target = repository / domain / STATISTICS_FILE
    if not (compute or channels or cluster or parts > 1) and (
        published := read_statistics(files, networks, click.echo)
    ):
        write_statistics(target, published.arrays, published.provenance)
        click.echo(f"{target}: written from the published files (--compute computes them)")
        return
    network = networks.generator.eval().to(target_device)
    network.set_upsampling("folded" if on_gpu else "transposed")
    _check_preview(preview, network.resolution)
    job = StatisticsJob(
        network,
        networks.clip.float().eval().to(target_device),
        work or weights / "statistics",
        _settings(images, batch, half, preview, on_gpu),
        samples=samples,
        parts=parts,
        channels=channels,
    )
    if not (on_gpu or cluster):
        _say_how_long(job)
    _compute(job, index, cluster, target_device.type, console)
    peak = peak_memory_mib() / 1024
    console.print(
        f"{job.work if cluster else job.path(index)}: {time.monotonic() - start:.0f} s, "
        f"peak memory {peak:.1f} GiB",
        highlight=False,
    )
    _merge(job, target, console)


def _say_how_long(job: StatisticsJob) -> None:
    """Say how long the computation takes on a CPU, and what else there is to do."""
    from styleclip_export.statistics.estimate import MIN_REPORTED_SECONDS, estimate

    measured = estimate(job)
    if measured.seconds < MIN_REPORTED_SECONDS:
        return
    cores = len(os.sched_getaffinity(0))
    click.echo(
        f"fs3 takes about {measured} on this machine ({cores} cores; measured on "
        f"{measured.channels} channels). Shorter ways: StyleCLIP's published fs3.npy and "
        "S_mean_std (--statistics; `styleclip-export fetch` has those of ffhq); a GPU (minutes); "
        "fewer images (--images 20); several hosts (--part, --ray). Ctrl-C stops, the same command "
        "continues."
    )


def _check_preview(preview: int | None, resolution: int) -> None:
    """Raise BadParameter if the generator has no RGB of `preview` pixels."""
    if preview and not (8 <= preview <= resolution and preview.bit_count() == 1):
        raise click.BadParameter(
            f"a power of two from 8 to {resolution} is expected", param_hint="--preview"
        )


def _settings(
    images: int, batch: int | None, half: bool, preview: int | None, on_gpu: bool
) -> Fs3Settings:
    """Return the settings of fs3, with a batch that fits the device."""
    import torch

    from styleclip_export.statistics.fs3 import Fs3Settings

    if batch is None:
        batch = 8 if not on_gpu else 200 if preview and preview <= 256 else 50
    return Fs3Settings(
        num_images=images,
        batch=batch,
        dtype=torch.float16 if half else torch.float32,
        preview=preview,
        use_kernels=half and on_gpu,
    )


def _compute(
    job: StatisticsJob, part: int, cluster: str | None, device: str, console: Console
) -> None:
    """Compute one part here, or all parts on a Ray cluster."""
    from styleclip_export.commands.progress import channel_bar

    with channel_bar(console) as progress:
        if cluster:
            from styleclip_export.statistics.ray_job import compute_parts

            compute_parts(job, cluster, device, progress)
        else:
            job.compute_part(part, progress)


def _merge(job: StatisticsJob, target: Path, console: Console) -> None:
    """Join the parts if all of them have a file."""
    paths = [job.path(part) for part in range(job.parts)]
    missing = [path.name for path in paths if not path.is_file()]
    if missing:
        console.print(f"not joined yet, still missing: {', '.join(missing)}", highlight=False)
        return
    done, rows = job.merge(target)
    console.print(f"{target}: fs3 of {done} of {rows} channels", highlight=False)
