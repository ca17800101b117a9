"""`styleclip-export convert`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from styleclip_export.commands.options import (
    NetworkFileOptions,
    network_file_options,
    repository_option,
)
from styleclip_export.commands.progress import peak_memory_mib
from styleclip_server.pipeline.style_statistics import STATISTICS_FILE

if TYPE_CHECKING:
    from styleclip_export.checkpoints.domain_files import DomainNetworks

_NO_STATISTICS = (
    "no fs3.npy and S_mean_std: edits by text will need `styleclip-export stats`, which takes "
    "weeks on a CPU at 1024 px and minutes on a GPU; where somebody published them, give them "
    "with --statistics"
)


@click.command(name="convert")
@click.argument("domain", default="ffhq")
@network_file_options
@click.option(
    "--feature-editor",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="StyleFeatureEditor's sfe_editor_light.pt, which keeps details that a latent cannot hold.",
)
@repository_option
@click.option("--title", help="One line about a domain of your own. [default: its name and size]")
@click.option("--neutral", help="What its images show. [default: a photo]")
@click.option("--align", is_flag=True, help="Its photos show faces, to be aligned as FFHQ's are.")
@click.option(
    "--only",
    multiple=True,
    type=click.Choice(["stylegan2", "e4e", "clip_text", "features"]),
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
    network_files: NetworkFileOptions,
    feature_editor: Path | None,
    repository: Path,
    title: str | None,
    neutral: str | None,
    align: bool,
    only: tuple[str, ...],
    torchscript: bool,
    with_float16: bool,
) -> None:
    """Convert the checkpoints of DOMAIN to ONNX and add them to the model repository.

    DOMAIN is one that `styleclip-export fetch` knows, or any name for networks of your own. Each
    converted network is compared with PyTorch at batches 1, 2 and 8; one that misses its bound is
    not written. Older versions stay. StyleCLIP's published statistics are taken where they are
    there and belong to the generator.

    \b
    Examples:
      styleclip-export convert ffhq
      styleclip-export convert ffhq --generator stylegan2-ffhq-config-f.pkl
      styleclip-export convert me --generator model_me.pt --encoder e4e_ffhq_encode.pt \\
          --clip ViT-B-32.pt --statistics fs3.npy --statistics S_mean_std --align
    """
    from styleclip_export.checkpoints.domain_files import (
        add_feature_editor,
        find_feature_editor,
        read_domain,
    )
    from styleclip_export.convert import conversion
    from styleclip_export.directions.published import add_published
    from styleclip_export.directions.store import DirectionStore
    from styleclip_export.statistics.published import find_published

    start = time.monotonic()

    def report(line: str) -> None:
        click.echo(f"[{time.monotonic() - start:5.0f} s] {line}")

    files = network_files.find()
    overrides = {"title": title, "neutral": neutral, "align": align}
    conversion.check_name(domain)
    networks = read_domain(files)
    feature_editor = feature_editor or find_feature_editor(network_files.weights)
    if feature_editor:
        networks = add_feature_editor(networks, feature_editor)
    for line in networks.summary:
        report(line)
    description = conversion.describe(domain, networks.generator, overrides)
    # Before the minutes of conversion: wrong statistics are an error.
    published = None if only else find_published(files, networks)
    if published:
        report(published.summary)
    has_statistics = published or (repository / domain / STATISTICS_FILE).is_file()
    if not (only or has_statistics):
        report(_NO_STATISTICS)
    conversion.convert(
        networks,
        description,
        repository,
        only=only,
        with_torchscript=torchscript,
        with_float16=with_float16,
        report=report,
    )
    conversion.install_landmarks(network_files.weights, repository / domain, report=report)
    directions = DirectionStore(repository / domain)
    directions.recompute(report)
    add_published(directions, network_files.weights, report=report)
    if published:
        from styleclip_export.statistics.job import write_statistics

        write_statistics(
            repository / domain / STATISTICS_FILE, published.arrays, published.provenance
        )
    peak = peak_memory_mib() / 1024
    report(f"done in {time.monotonic() - start:.0f} s, peak memory {peak:.1f} GiB")
    _print_next_step(domain, repository, networks)


def _print_next_step(domain: str, repository: Path, networks: DomainNetworks) -> None:
    if networks.encoder is None:
        click.echo(
            f"{domain} has no encoder: it edits latents and random seeds (`styleclip sample`), and "
            "refuses photos"
        )
    if (repository / domain / STATISTICS_FILE).is_file():
        click.echo(f"next: make serve DOMAIN={domain}")
    else:
        click.echo(
            f"next: styleclip-export stats {domain} (edits by text need its statistics; it says "
            "first how long it takes)"
        )
