"""`styleclip-export convert`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from styleclip_export.commands.progress import peak_memory_mib
from styleclip_server.pipeline.style_statistics import STATISTICS_FILE


@click.command(name="convert")
@click.argument("domain", default="ffhq")
@click.option("--weights", type=click.Path(path_type=Path), help="[default: weights/DOMAIN]")
@click.option(
    "--repository",
    type=click.Path(path_type=Path),
    default=Path("model_repository"),
    show_default=True,
)
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(["stylegan2", "e4e", "clip_text"]),
    help="Only this network (can be repeated).",
)
@click.option("--torchscript", is_flag=True, help="Write StyleGAN2 and e4e as TorchScript, too.")
@click.option(
    "--half/--no-half",
    "with_float16",
    default=True,
    show_default=True,
    help="Write float16 networks for GPUs, too.",
)
def command(
    domain: str,
    weights: Path | None,
    repository: Path,
    only: tuple[str, ...],
    torchscript: bool,
    with_float16: bool,
) -> None:
    """Convert the checkpoints of DOMAIN to ONNX and add them to the model repository.

    Each converted network is compared with PyTorch at batches 1, 2 and 8; one that misses its
    bound is not written. Older versions stay.
    """
    from styleclip_export.checkpoints.domain_files import DomainFiles, read_domain
    from styleclip_export.convert import conversion

    start = time.monotonic()
    description = conversion.read_description(domain)
    weights = weights or Path("weights") / domain
    networks = read_domain(DomainFiles.find(weights))
    for line in networks.summary:
        click.echo(line)
    conversion.convert(
        networks,
        description,
        repository,
        only=only,
        torchscript=torchscript,
        with_float16=with_float16,
        report=click.echo,
    )
    conversion.install_landmarks(weights, repository / domain, report=click.echo)
    peak = peak_memory_mib() / 1024
    click.echo(f"done in {time.monotonic() - start:.0f} s, peak memory {peak:.1f} GiB")
    if not (repository / domain / STATISTICS_FILE).is_file():
        click.echo(f"next: styleclip-export stats {domain} (the texts need its statistics)")
