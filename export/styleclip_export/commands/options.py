"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from styleclip_export.checkpoints.domain_files import DomainFiles

Command = Callable[..., Any]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_GENERATOR = (
    "A StyleGAN2: NVIDIA's .pkl, rosinality's or BasicSR's .pt, PTI's, safetensors. "
    "[default: the encoder's own]"
)
_ENCODER = "An e4e or pSp checkpoint. Without one the domain edits latents and random seeds only."
_STATISTICS = "StyleCLIP's fs3.npy and S_mean_std; give it twice."
_WEIGHTS = "Where the files are that are not named.  [default: weights/DOMAIN]"
_NETWORK_FILE_OPTIONS = (
    click.option("--generator", type=_FILE, help=_GENERATOR),
    click.option("--encoder", type=_FILE, help=_ENCODER),
    click.option("--clip", type=_FILE, help="CLIP, ViT-B-32.pt or another ViT."),
    click.option("--statistics", multiple=True, type=_FILE, help=_STATISTICS),
    click.option("--weights", type=click.Path(path_type=Path), help=_WEIGHTS),
)

repository_option = click.option(
    "--repository",
    type=click.Path(path_type=Path),
    default=Path("model_repository"),
    show_default=True,
)


@dataclass(frozen=True)
class NetworkFileOptions:
    """The options that name a domain's files; files that are not named are in `weights`."""

    generator: Path | None
    encoder: Path | None
    clip: Path | None
    statistics: tuple[Path, ...]
    weights: Path

    def find(self) -> DomainFiles:
        """Return the files of the domain.

        Raises:
            CheckpointError: there is no network to convert, or several that could be meant.
        """
        from styleclip_export.checkpoints.domain_files import DomainFiles

        return DomainFiles.find(
            self.weights,
            generator=self.generator,
            encoder=self.encoder,
            clip=self.clip,
            statistics=self.statistics,
        )


def network_file_options(command: Command) -> Command:
    """Add the options that name the files of `domain`; the command gets `network_files`."""

    @functools.wraps(command)
    def with_network_files(
        domain: str,
        generator: Path | None,
        encoder: Path | None,
        clip: Path | None,
        statistics: tuple[Path, ...],
        weights: Path | None,
        **others: Any,
    ) -> Any:
        network_files = NetworkFileOptions(
            generator, encoder, clip, statistics, weights or Path("weights") / domain
        )
        return command(domain=domain, network_files=network_files, **others)

    for option in reversed(_NETWORK_FILE_OPTIONS):
        with_network_files = option(with_network_files)
    return with_network_files
