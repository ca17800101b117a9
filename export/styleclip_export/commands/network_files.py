"""The options of `convert` and `stats` that name a domain's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from styleclip_export.checkpoints.domain_files import DomainFiles, DomainNetworks
    from styleclip_export.statistics.published import PublishedStatistics

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_GENERATOR = (
    "A StyleGAN2: NVIDIA's .pkl, rosinality's or BasicSR's .pt, PTI's, safetensors. "
    "[default: the encoder's own]"
)
_ENCODER = "An e4e or pSp checkpoint. Without one the domain edits latents and random seeds only."
_STATISTICS = "StyleCLIP's fs3.npy and S_mean_std; give it twice."
_WEIGHTS = "Where the files are that are not named.  [default: weights/DOMAIN]"
_OPTIONS = (
    click.option("--generator", type=_FILE, help=_GENERATOR),
    click.option("--encoder", type=_FILE, help=_ENCODER),
    click.option("--clip", type=_FILE, help="CLIP, ViT-B-32.pt or another ViT."),
    click.option("--statistics", multiple=True, type=_FILE, help=_STATISTICS),
    click.option("--weights", type=click.Path(path_type=Path), help=_WEIGHTS),
)


def network_file_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; `find_files` takes their values."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def find_files(
    weights: Path,
    generator: Path | None,
    encoder: Path | None,
    clip: Path | None,
    statistics: tuple[Path, ...],
) -> DomainFiles:
    """Return the named files, and those of the folder `weights`."""
    from styleclip_export.checkpoints.domain_files import DomainFiles

    return DomainFiles.find(
        weights, generator=generator, encoder=encoder, clip=clip, statistics=statistics
    )


def read_statistics(
    files: DomainFiles, networks: DomainNetworks, report: Callable[[str], None]
) -> PublishedStatistics | None:
    """Read the published statistics, if both files are there."""
    if not (files.fs3 and files.moments):
        return None
    from styleclip_export.statistics.published import read_published

    width = networks.clip.text_projection.shape[1]
    published = read_published(
        files.fs3, files.moments, networks.generator, networks.w_center, width
    )
    report(published.summary)
    return published
