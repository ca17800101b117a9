"""The networks of a domain, from the files that `styleclip-export fetch` puts into one folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from styleclip_export.checkpoints import clip, e4e
from styleclip_export.errors import CheckpointError
from styleclip_export.file_kinds import sha256_of
from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.stylegan2 import Generator


@dataclass(frozen=True)
class DomainNetworks:
    """The networks that a domain is converted from.

    Attributes:
        w_avg: (L, w_dim) or (w_dim,), added to e4e's output.
        sources: file name → SHA-256.
        summary: one line for the user about each file.
    """

    generator: Generator
    encoder: Encoder4Editing
    clip: CLIP
    w_avg: Tensor
    sources: dict[str, str] = field(default_factory=dict)
    summary: list[str] = field(default_factory=list)


def read_domain(folder: Path) -> DomainNetworks:
    """Read e4e's and CLIP's checkpoint from a folder.

    The generator is e4e's own, since its encoder was trained for it.

    Raises:
        CheckpointError: a file is missing, or is not what its name says.
    """
    e4e_path = _only_file(folder, "e4e_*.pt", "e4e's checkpoint")
    clip_path = _only_file(folder, "ViT-*.pt", "CLIP's checkpoint")
    e4e_checkpoint, clip_checkpoint = e4e.read(e4e_path), clip.read(clip_path)
    decoder, clip_sizes = e4e_checkpoint.decoder, clip_checkpoint.sizes
    return DomainNetworks(
        decoder.network(),
        e4e_checkpoint.network(),
        clip_checkpoint.network(),
        e4e_checkpoint.w_avg,
        sources={path.name: sha256_of(path) for path in (e4e_path, clip_path)},
        summary=[
            f"{e4e_path.name}: e4e with {e4e_checkpoint.sizes.num_latents} latents, StyleGAN2 of "
            f"{decoder.sizes.resolution} px",
            f"{clip_path.name}: CLIP, {clip_sizes['image_resolution']} px, "
            f"{clip_sizes['embed_dim']} dimensions",
        ],
    )


def _only_file(folder: Path, pattern: str, what: str) -> Path:
    paths = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if len(paths) != 1:
        names = ", ".join(path.name for path in paths) or "none"
        raise CheckpointError(
            f"{folder} must contain one {pattern} ({what}), but contains {names}: run "
            "`styleclip-export fetch`"
        )
    return paths[0]
