"""The networks of a domain, from the files of one folder as `styleclip-export fetch` leaves it."""

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
class Networks:
    """What a domain is converted from. w_avg: (L, w_dim) or (w_dim,), added to e4e's answer;
    sources: file name → SHA-256; told: what was read, for people."""

    generator: Generator
    encoder: Encoder4Editing
    clip: CLIP
    w_avg: Tensor
    sources: dict[str, str] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)


def read_domain(folder: Path) -> Networks:
    """Reads e4e (encoder, its generator and average latent) and CLIP from `folder`.

    The generator is e4e's own, since its encoder was trained for it.

    Raises:
        CheckpointError: a file is missing, or is not what its name says.
    """
    e4e_path = _one(folder, "e4e_*.pt", "e4e's checkpoint")
    clip_path = _one(folder, "ViT-*.pt", "CLIP's checkpoint")
    faces, texts = e4e.read(e4e_path), clip.read(clip_path)
    told = [
        f"{e4e_path.name}: e4e with {faces.num_latents} latents, StyleGAN2 of "
        f"{faces.decoder.resolution} px",
        f"{clip_path.name}: CLIP, {texts.sizes['image_resolution']} px, "
        f"{texts.sizes['embed_dim']} dimensions",
    ]
    return Networks(
        faces.decoder.network(),
        faces.network(),
        texts.network(),
        faces.w_avg,
        {path.name: sha256_of(path) for path in (e4e_path, clip_path)},
        told,
    )


def _one(folder: Path, pattern: str, what: str) -> Path:
    found = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise CheckpointError(
            f"{folder} must hold one {pattern} ({what}), it holds {names}: run "
            "`styleclip-export fetch`"
        )
    return found[0]
