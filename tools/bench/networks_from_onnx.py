"""The PyTorch networks of a served domain, rebuilt from its ONNX files.

The files have every parameter under its PyTorch name, so the baseline runs with the same weights as
the server.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.stylegan2 import Generator
from styleclip_server.engines.weights import read_parameters


@dataclass(frozen=True)
class Networks:
    """The networks of a domain in float32.

    Attributes:
        w_avg: (L, w_dim), or None if the encoder's output includes it.
        vocabulary: (49408,) CLIP's token ids → rows of a smaller token embedding, or None.
    """

    generator: Generator
    encoder: Encoder4Editing
    w_avg: Tensor | None
    clip: CLIP
    vocabulary: Tensor | None


def read_networks(folder: Path) -> Networks:
    """Read the newest version of the networks of the domain in `folder`."""
    domain = json.loads((folder / "domain.json").read_text("utf-8"))
    tensors = {name: _read_newest(folder / name) for name in ("stylegan2", "e4e", "clip_text")}
    state = _strip_prefix(tensors["stylegan2"], "generator.")
    generator = Generator(
        domain["resolution"],
        _channels(state, domain["resolution"]),
        domain["w_dim"],
        use_noise=any(key.startswith("noises.") for key in state),
    )
    _load_weights(generator, state, missing=("style.", "noises.", "noise.weight", ".kernel"))
    clip, table = _build_clip(tensors["clip_text"])
    encoder = _build_encoder(_strip_prefix(tensors["e4e"], "encoder."), domain)
    return Networks(generator, encoder, tensors["e4e"].get("w_avg"), clip, table)


def _read_newest(model: Path) -> dict[str, Tensor]:
    """Read the parameters of the newest version of a model, by name."""
    newest = max((p for p in model.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))
    parameters = read_parameters(newest / "model.onnx")
    return {name: torch.from_numpy(np.array(array)) for name, array in parameters.items()}


def _strip_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose name starts with `prefix`, without it."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _channels(state: dict[str, Tensor], resolution: int) -> dict[int, int]:
    """Return the feature channels by resolution."""
    channels, block = {4: state["conv1.conv.weight"].shape[1]}, 0
    while 8 << block <= resolution:
        channels[8 << block] = state[f"convs.{2 * block}.conv.weight"].shape[1]
        block += 1
    return channels


def _build_encoder(state: dict[str, Tensor], domain: dict[str, Any]) -> Encoder4Editing:
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
    _load_weights(encoder, state, missing=("num_batches_tracked",))
    return encoder.eval()


def _build_clip(tensors: dict[str, Tensor]) -> tuple[CLIP, Tensor | None]:
    state = _strip_prefix(tensors, "clip.")
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
    _load_weights(clip, state, missing=("visual.", "logit_scale"))
    return clip.eval(), tensors.get("table")


def _load_weights(module: nn.Module, state: dict[str, Tensor], missing: tuple[str, ...]) -> None:
    """Load `state`; names that contain one of `missing` may be absent.

    Raises:
        ValueError: another parameter is absent.
    """
    names = module.state_dict().keys()
    result = module.load_state_dict({k: state[k] for k in names if k in state}, strict=False)
    unexpected = [key for key in result.missing_keys if not any(part in key for part in missing)]
    if unexpected:
        raise ValueError(f"the ONNX file lacks {unexpected[0]} (and {len(unexpected) - 1} more)")
