"""The PyTorch networks of a served domain, rebuilt from its ONNX files.

The files have every parameter under its PyTorch name, so the baseline runs with the same weights as
the server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from styleclip_export.convert.feature_wrappers import FaceToFeatures, FeaturesToImage
from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.sfe import FeatureFuser, Inverter
from styleclip_networks.sizes import (
    encoder_sizes,
    feature_fuser_sizes,
    generator_sizes,
    inverter_sizes,
    text_encoder_sizes,
)
from styleclip_networks.stylegan2 import Generator
from styleclip_server.engines.feature_weights import read_feature_weights
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
    tensors = {name: _read_newest(folder / name) for name in ("stylegan2", "e4e", "clip_text")}
    generator = _build_generator(tensors["stylegan2"])
    state = _strip_prefix(tensors["e4e"], "encoder.")
    encoder = Encoder4Editing(**encoder_sizes(_shapes(state))).eval()
    _load_weights(encoder, state, missing=("num_batches_tracked",))
    state = _strip_prefix(tensors["clip_text"], "clip.")
    sizes = text_encoder_sizes(_shapes(state))
    clip = CLIP(**sizes, vision_width=64, vision_layers=1, vision_heads=1).eval()
    _load_weights(clip, state, missing=("visual.", "logit_scale"))
    average, table = tensors["e4e"].get("w_avg"), tensors["clip_text"].get("table")
    return Networks(generator, encoder, average, clip, table)


def read_feature_networks(folder: Path) -> tuple[FaceToFeatures, FeaturesToImage]:
    """Read the newest version of the networks of the domain in `folder` that edit features."""
    tensors = _to_tensors(read_feature_weights(_newest(folder / "features")))
    generator = _build_generator(_read_newest(folder / "stylegan2"))
    state = _strip_prefix(tensors, "inverter.")
    inverter = Inverter(**inverter_sizes(_shapes(state)))
    _load_weights(inverter, state, missing=("num_batches_tracked",))
    state = _strip_prefix(tensors, "editor.")
    editor = FeatureFuser(**feature_fuser_sizes(_shapes(state)))
    _load_weights(editor, state, missing=("num_batches_tracked",))
    w_avg = tensors.get("w_avg", torch.zeros(generator.w_dim))
    own_latent = len(inverter.fs_backbone.styles) > 0
    for module in (generator, inverter, editor):
        module.eval().requires_grad_(False)
    return (
        FaceToFeatures(inverter, editor, generator, w_avg),
        FeaturesToImage(editor, generator, own_latent=own_latent),
    )


def _build_generator(tensors: dict[str, Tensor]) -> Generator:
    """Build the generator from the parameters of `stylegan2`."""
    state = _strip_prefix(tensors, "generator.")
    generator = Generator(
        **generator_sizes(_shapes(state)),
        use_noise=any(key.startswith("noises.") for key in state),
    )
    _load_weights(generator, state, missing=("style.", "noises.", "noise.weight", ".kernel"))
    return generator


def _newest(model: Path) -> Path:
    """Return the folder of the newest version of a model."""
    return max((p for p in model.iterdir() if p.name.isdecimal()), key=lambda p: int(p.name))


def _read_newest(model: Path) -> dict[str, Tensor]:
    """Read the parameters of the newest version of a model, by name."""
    return _to_tensors(read_parameters(_newest(model) / "model.onnx"))


def _to_tensors(parameters: Mapping[str, NDArray[Any]]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(np.array(array)) for name, array in parameters.items()}


def _strip_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose name starts with `prefix`, without it."""
    return {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}


def _shapes(state: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in state.items()}


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
