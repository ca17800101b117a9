"""The networks of a domain, from the files of one folder as `styleclip-export fetch` leaves it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from styleclip_export.checkpoints import archive, stylegan2
from styleclip_export.errors import CheckpointError
from styleclip_export.models.clip import CLIP
from styleclip_export.models.e4e import Encoder4Editing
from styleclip_export.models.stylegan2 import Generator


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
    checkpoint = archive.read_torch(e4e_path, "e4e's checkpoint")
    encoder, average = read_encoder(checkpoint, e4e_path)
    generator, _ = stylegan2.from_checkpoint(checkpoint, e4e_path)
    del checkpoint
    clip = read_clip(clip_path)
    told = [
        f"{e4e_path.name}: e4e with {encoder.num_latents} latents, StyleGAN2 of "
        f"{generator.resolution} px",
        f"{clip_path.name}: CLIP, {clip.visual.resolution} px, "
        f"{clip.text_projection.shape[1]} dimensions",
    ]
    sources = {path.name: sha256(path) for path in (e4e_path, clip_path)}
    return Networks(generator, encoder, clip, average, sources, told)


def _one(folder: Path, pattern: str, what: str) -> Path:
    found = sorted(folder.glob(pattern)) if folder.is_dir() else []
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "none"
        raise CheckpointError(
            f"{folder} must hold one {pattern} ({what}), it holds {names}: run "
            "`styleclip-export fetch`"
        )
    return found[0]


def sha256(path: Path) -> str:
    """The file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def read_encoder(checkpoint: Any, path: Path) -> tuple[Encoder4Editing, Tensor]:
    """e4e's encoder and the average latent of a loaded checkpoint, of any number of latents.

    Raises:
        CheckpointError: it holds none, or one of another architecture.
    """
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get("state_dict"), dict):
        raise CheckpointError(f"{path} holds no `state_dict`; e4e's checkpoint was expected")
    state = stylegan2.part(checkpoint["state_dict"], "encoder.")
    average = checkpoint.get("latent_avg")
    if not state or not isinstance(average, Tensor):
        raise CheckpointError(
            f"{path} lacks `encoder.` weights or `latent_avg`; e4e's checkpoint was expected"
        )
    try:
        widths, depths = _backbone(state)
        latents = 1 + max(int(m[1]) for k in state if (m := re.match(r"styles\.(\d+)\.", k)))
        w_dim, width = state["styles.0.linear.weight"].shape
        encoder = Encoder4Editing(latents, widths, depths, width, w_dim)
        encoder.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError, IndexError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: the encoder is not e4e's Encoder4Editing ({reason})"
        ) from error
    if average.shape not in ((latents, w_dim), (w_dim,)):
        raise CheckpointError(f"{path}: latent_avg has shape {tuple(average.shape)}")
    return encoder, average.float()


def _backbone(state: dict[str, Tensor]) -> tuple[list[int], list[int]]:
    """Widths and depths of the four stages: a new one begins where a unit's width changes, and in
    the first unit."""
    units = 1 + max(int(m[1]) for k in state if (m := re.match(r"body\.(\d+)\.", k)))
    widths: list[int] = []
    depths: list[int] = []
    for i in range(units):
        width = state[f"body.{i}.res_layer.1.weight"].shape[0]
        if not widths or width != widths[-1]:
            widths.append(width)
            depths.append(0)
        depths[-1] += 1
    if len(widths) != 4:
        raise ValueError(f"{len(widths)} stages of widths {widths}; 4 were expected")
    return widths, depths


def read_clip(path: Path) -> CLIP:
    """A CLIP with a ViT image tower: OpenAI's TorchScript archive, or a plain state_dict.

    Raises:
        CheckpointError: it is no CLIP, or one with a ResNet.
    """
    expected = "CLIP's checkpoint"
    if archive.is_torchscript(path):
        state = archive.read_torchscript(path, expected)
    else:
        found = archive.read_torch(path, expected)
        state = found.get("state_dict", found) if isinstance(found, dict) else {}
    try:
        with torch.no_grad():
            return CLIP.from_state_dict({k: v for k, v in state.items() if isinstance(v, Tensor)})
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} is no CLIP with a ViT image tower ({reason}); ViT-B-32.pt was expected"
        ) from error
