"""`styleclip-export stats`."""

from __future__ import annotations

import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.console import Console

from styleclip_export.commands.options import (
    NetworkFileOptions,
    network_file_options,
    repository_option,
)
from styleclip_export.commands.progress import peak_memory_mib
from styleclip_server.pipeline.style_statistics import STATISTICS_FILE

if TYPE_CHECKING:
    import torch

    from styleclip_export.checkpoints.domain_files import DomainFiles, DomainNetworks
    from styleclip_export.statistics.fs3 import Fs3Settings
    from styleclip_export.statistics.job import StatisticsJob

RAY_PARTS = 48  # tasks of a run with --ray

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
@repository_option
@click.option(
    "--work",
    type=click.Path(path_type=Path),
    help="Where parts are kept. [default: WEIGHTS/statistics]",
)
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
    network_files: NetworkFileOptions,
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
    if cluster:
        _check_ray()
    from styleclip_export.checkpoints.domain_files import read_domain

    start = time.monotonic()
    files = network_files.find()
    networks = read_domain(files)
    target = repository / domain / STATISTICS_FILE
    index, parts = (0, RAY_PARTS) if cluster else part
    if not (compute or channels or parts > 1) and _write_published(files, networks, target):
        return
    target_device = _select_device(device)
    job = _create_job(
        networks,
        target_device,
        work or network_files.weights / "statistics",
        _settings(images, batch, half, preview, on_gpu=target_device.type == "cuda"),
        samples=samples,
        parts=parts,
        channels=channels,
    )
    if not cluster and target_device.type == "cpu":
        _say_how_long(job)
    console = Console()
    _compute(job, index, cluster, target_device.type, console)
    peak = peak_memory_mib() / 1024
    console.print(
        f"{job.work if cluster else job.path(index)}: {time.monotonic() - start:.0f} s, "
        f"peak memory {peak:.1f} GiB",
        highlight=False,
    )
    _merge(job, target, console)


def _check_ray() -> None:
    if find_spec("ray") is None:
        raise click.UsageError("--ray needs Ray: pip install 'styleclip-triton[ray]'")


def _select_device(name: str | None) -> torch.device:
    import torch

    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _write_published(files: DomainFiles, networks: DomainNetworks, target: Path) -> bool:
    """Write the published statistics, if there are any; return whether there are."""
    from styleclip_export.statistics.job import write_statistics
    from styleclip_export.statistics.published import find_published

    published = find_published(files, networks)
    if not published:
        return False
    click.echo(published.summary)
    write_statistics(target, published.arrays, published.provenance)
    click.echo(f"{target}: written from the published files (--compute computes them)")
    return True


def _create_job(
    networks: DomainNetworks,
    device: torch.device,
    work: Path,
    settings: Fs3Settings,
    *,
    samples: int,
    parts: int,
    channels: int | None,
) -> StatisticsJob:
    """Move the networks to the device and return the job."""
    from styleclip_export.statistics.job import StatisticsJob

    network = networks.generator.eval().to(device)
    network.set_upsampling("folded" if device.type == "cuda" else "transposed")
    _check_preview(settings.preview, network.resolution)
    clip = networks.clip.float().eval().to(device)
    return StatisticsJob(network, clip, work, settings, samples, parts, channels)


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
    images: int, batch: int | None, half: bool, preview: int | None, *, on_gpu: bool
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
