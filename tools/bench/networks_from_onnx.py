"""The PyTorch networks of a served domain, read back from its ONNX files.

The exported graphs keep every parameter under its PyTorch name, so that the baseline runs with the
same weights as the server.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from styleclip_networks import CLIP, Encoder4Editing, Generator
from styleclip_server.engines.weights import read_parameters


@dataclass(frozen=True)
class Networks:
    """A domain's networks, in float32."""

    generator: Generator
    encoder: Encoder4Editing
    w_avg: Tensor | None
    clip: CLIP
    vocabulary: Tensor | None  # CLIP's token ids → rows of a smaller embedding


def read(folder: Path) -> Networks:
    """The newest version of the networks of the domain in `folder`."""
    domain = json.loads((folder / "domain.json").read_text("utf-8"))
    tensors = {name: _tensors(folder / name) for name in ("stylegan2", "e4e", "clip_text")}
    state = _below(tensors["stylegan2"], "generator.")
    generator = Generator(
        domain["resolution"],
        _widths(state, domain["resolution"]),
        domain["w_dim"],
        use_noise=any(key.startswith("noises.") for key in state),
    )
    _load(generator, state, missing=("style.", "noises.", "noise.weight", ".kernel"))
    clip, table = _clip(tensors["clip_text"])
    encoder = _encoder(_below(tensors["e4e"], "encoder."), domain)
    return Networks(generator, encoder, tensors["e4e"].get("w_avg"), clip, table)


def _tensors(model: Path) -> dict[str, Tensor]:
    """The parameters of the newest version of `model`, by name."""
    newest = max((p for p in model.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))
    parameters = read_parameters(newest / "model.onnx")
    return {name: torch.from_numpy(np.array(array)) for name, array in parameters.items()}


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _widths(state: dict[str, Tensor], resolution: int) -> dict[int, int]:
    widths, r, i = {4: state["conv1.conv.weight"].shape[1]}, 8, 0
    while r <= resolution:
        widths[r], r, i = state[f"convs.{i}.conv.weight"].shape[1], 2 * r, i + 2
    return widths


def _encoder(state: dict[str, Tensor], domain: dict[str, Any]) -> Encoder4Editing:
    units = sorted({int(key.split(".")[1]) for key in state if key.startswith("body.")})
    out = [state[f"body.{i}.res_layer.3.weight"].shape[0] for i in units]
    widths = sorted(set(out))
    encoder = Encoder4Editing(
        domain["num_latents"],
        widths,
        [out.count(width) for width in widths],
        state["styles.0.convs.0.weight"].shape[0],
        domain["w_dim"],
    )
    _load(encoder, state, missing=("num_batches_tracked",))
    return encoder.eval()


def _clip(tensors: dict[str, Tensor]) -> tuple[CLIP, Tensor | None]:
    state = _below(tensors, "clip.")
    width, embed_dim = state["text_projection"].shape
    blocks = {key.split(".")[2] for key in state if key.startswith("transformer.resblocks.")}
    clip = CLIP(
        embed_dim,
        vision_width=64,
        vision_layers=1,
        vision_heads=1,
        context_length=state["positional_embedding"].shape[0],
        vocab_size=state["token_embedding.weight"].shape[0],
        transformer_width=width,
        transformer_layers=len(blocks),
        transformer_heads=width // 64,
    )
    _load(clip, state, missing=("visual.", "logit_scale"))
    return clip.eval(), tensors.get("table")


def _load(module: nn.Module, state: dict[str, Tensor], missing: tuple[str, ...]) -> None:
    names = module.state_dict().keys()
    result = module.load_state_dict({k: state[k] for k in names if k in state}, strict=False)
    lost = [key for key in result.missing_keys if not any(part in key for part in missing)]
    if lost:
        raise ValueError(f"the ONNX file holds no {lost[0]} (and {len(lost) - 1} more)")
