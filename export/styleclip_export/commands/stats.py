"""`styleclip-export stats`."""

from __future__ import annotations

import resource
import time
from importlib.util import find_spec
from pathlib import Path

import click

_PATH = click.Path(path_type=Path)
_FLOOR = "Least CLIP change of a channel that gets a direction; 0: StyleCLIP's rule."
_PART = "K/N: only part K of N, for several GPUs or hosts; `--merge` joins them."
_BATCH = "Pictures synthesised at once. [default: 8; on a GPU 50, with a preview up to 256 px 200]"
_PREVIEW = "CLIP sees the generator's RGB of so many pixels; see docs/checkpoints.md."
_RAY = "Compute on a Ray cluster, a task a GPU: its address, `auto`, or `local` for this machine."


@click.command(name="stats")
@click.argument("domain", default="ffhq")
@click.option("--weights", type=_PATH, help="[default: weights/DOMAIN]")
@click.option("--repository", type=_PATH, default=Path("model_repository"), show_default=True)
@click.option("--work", type=_PATH, help="Where parts are kept. [default: WEIGHTS/statistics]")
@click.option("--samples", default=100_000, show_default=True, help="For mean and deviation of S.")
@click.option("--images", default=100, show_default=True, help="Pictures for each channel of fs3.")
@click.option("--batch", type=click.IntRange(1), help=_BATCH)
@click.option("--seed", default=1, show_default=True)
@click.option("--floor", default=0.0, show_default=True, help=_FLOOR)
@click.option("--half", is_flag=True, help="float16; on a GPU with the server's kernels.")
@click.option("--repeatable", is_flag=True,
              help="On a GPU: the same numbers in every run and part.")  # fmt: skip
@click.option("--preview", type=int, metavar="PIXELS", help=_PREVIEW)
@click.option("--device", help="cpu, cuda, cuda:1 … [default: a GPU where there is one]")
@click.option("--channels", type=int, help="Only the first so many channels: a trial.")
@click.option("--part", default="0/1", show_default=True, help=_PART)
@click.option("--ray", "cluster", metavar="ADDRESS", help=_RAY)
@click.option("--parts", default=48, show_default=True, help="Tasks of a run with --ray.")
@click.option("--merge", "merging", is_flag=True, help="Compute nothing, join the parts.")
def command(
    domain: str,
    weights: Path | None,
    repository: Path,
    work: Path | None,
    samples: int,
    images: int,
    batch: int | None,
    seed: int,
    floor: float,
    half: bool,
    repeatable: bool,
    preview: int | None,
    device: str | None,
    channels: int | None,
    part: str,
    cluster: str | None,
    parts: int,
    merging: bool,
) -> None:
    """Compute the StyleSpace statistics of DOMAIN: mean and deviation of S, and fs3.

    Can be interrupted at any time; the same command goes on where it was.
    """
    import torch
    from rich.console import Console

    if cluster and find_spec("ray") is None:
        raise click.UsageError("--ray needs Ray: pip install 'styleclip-triton[ray]'")
    from styleclip_export.checkpoints.domain_files import read_domain
    from styleclip_export.commands.progress import channel_bar
    from styleclip_export.statistics import job
    from styleclip_export.statistics.fs3 import Fs3Rule

    console = Console()
    weights = weights or Path("weights") / domain
    work = work or weights / "statistics"
    target = repository / domain / "statistics.npz"
    number, _, count = part.partition("/")
    if not (number.isdecimal() and count.isdecimal() and int(number) < int(count)):
        raise click.BadParameter("K/N with K from 0 to N - 1 is expected", param_hint="--part")
    k, n = (0, parts) if cluster else (int(number), int(count))
    if not merging:
        start = time.monotonic()
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        networks = read_domain(weights)
        generator = networks.generator.eval().to(chosen)
        generator.upsample_as("folded" if chosen.type == "cuda" else "transposed")
        clip = networks.clip.float().eval().to(chosen)
        dtype = torch.float16 if half else torch.float32
        if preview and not (8 <= preview <= generator.resolution and preview.bit_count() == 1):
            raise click.BadParameter(
                f"a power of two from 8 to {generator.resolution} is expected",
                param_hint="--preview",
            )
        if batch is None:
            batch = 8 if chosen.type == "cpu" else 200 if preview and preview <= 256 else 50
        rule = Fs3Rule(images, seed=seed, batch=batch, floor=floor, dtype=dtype,
                       preview=preview, fused=half and chosen.type == "cuda",
                       repeatable=repeatable)  # fmt: skip
        with channel_bar(console) as progress:
            if cluster:
                from styleclip_export.statistics.ray_job import compute_parts

                compute_parts(generator, clip, work, rule, samples=samples, parts=n,
                              channels=channels, address=cluster, device=chosen.type,
                              progress=progress)  # fmt: skip
            else:
                job.compute_part(generator, clip, work, rule, samples=samples, part=k, parts=n,
                                   channels=channels, progress=progress)  # fmt: skip
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        made = work if cluster else job.part_path(work, k, n)
        console.print(
            f"{made}: {time.monotonic() - start:.0f} s, peak memory {peak:.1f} GiB",
            highlight=False,
        )
    files = [job.part_path(work, i, n) for i in range(n)]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        console.print(f"not joined yet, still missing: {', '.join(missing)}", highlight=False)
        return
    done, rows = job.merge(work, files, target)
    console.print(f"{target}: fs3 of {done} of {rows} channels", highlight=False)
