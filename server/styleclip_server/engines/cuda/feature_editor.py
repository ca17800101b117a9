"""StyleFeatureEditor on a GPU: a face to features, which are kept, and features to an image.

The two parts are those of the ONNX files (`styleclip_export.convert.feature_wrappers`); networks
and formulas are in `styleclip_networks.sfe`. The generator is the one of `stylegan2`; its layers up
to 64 px run for both latents of an edit in one batch. Norms are folded as in `residual_units`.

Features are (N, r, r, C), contiguous, of the network's dtype. For a given shape nothing waits for
the GPU, so that a CUDA graph can capture a call.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks.sfe import (
    CONTENT_STAGE,
    STRIDES,
    drop_changed_details,
    pooling_windows,
)
from styleclip_networks.sizes import count_modules
from styleclip_server.engines.cuda.convolutions import convolve
from styleclip_server.engines.cuda.parameters import Parameters
from styleclip_server.engines.cuda.residual_units import (
    ResidualUnit,
    UnitNames,
    build_branch,
    build_stem,
    build_unit,
)
from styleclip_server.engines.cuda.stylegan2 import CudaGenerator

_LARGEST_HALF = torch.finfo(torch.float16).max


class Features(NamedTuple):
    """What an edit needs of a face: latent (1, L, w_dim) float32, features (1, r, r, C) float16."""

    latent: Tensor
    features: Tensor

    @property
    def nbytes(self) -> int:
        return self.latent.nbytes + self.features.nbytes


@dataclass(frozen=True)
class Fuser:
    """A `FeatureFuser`, of two feature maps of C channels.

    Attributes:
        filters: of the first, 1x1 convolution, (C, 2 C, 1, 1), channels last.
        bias: (C,), of the network's dtype.
        units: the residual units that follow.
    """

    filters: Tensor
    bias: Tensor
    units: Sequence[ResidualUnit]

    def join(self, features: Tensor, others: Tensor) -> Tensor:
        """Run the first convolution: twice (N, r, r, C) → (N, r, r, C)."""
        return convolve(torch.cat([features, others], 3), self.filters).add_(self.bias)

    def fuse(self, joined: Tensor) -> Tensor:
        """Run the residual units."""
        for unit in self.units:
            joined = unit(joined)
        return joined


class CudaFeatureEditor:
    """Edits faces by their features: `invert`, then `edit`.

    Args:
        weights: parameters by their names in the two ONNX files.
        generator: the domain's, whose device and dtype the networks take.

    Raises:
        KeyError: a weight is missing.
    """

    def __init__(self, weights: Mapping[str, np.ndarray], generator: CudaGenerator) -> None:
        self.generator = generator
        inverter, editor = (
            Parameters(weights, prefix, generator.device, generator.dtype)
            for prefix in ("inverter.", "editor.")
        )
        self.stem = build_stem(inverter, "fs_backbone.conv")
        self.stages = _stages(inverter)
        self.content = build_branch(inverter, _branch_names("fs_backbone.content_layer"))
        self.heads = _heads(inverter, weights)
        self.fuser, self.editor = _fuser(inverter, "fuser."), _fuser(editor, "")
        self.no_delta = torch.zeros_like(generator.affine_bias)[None]
        channels = len(self.editor.bias)
        # Of the first convolution, which is linear: what reads the change of the features.
        self.change_filters = editor.filters(editor.tensor("conv.weight")[:, channels:])

    def invert(self, face: Tensor, w_plus: Tensor) -> tuple[Tensor, Tensor]:
        """Invert faces.

        Args:
            face: (N, 3, 4 r, 4 r) float32, RGB in [-1, 1].
            w_plus: e4e's latent, (N, L, w_dim) float32.

        Returns:
            The inverter's latent, or e4e's where it predicts none, and the features that `edit`
            takes, float16 without infinities.
        """
        outputs = self._encode(face)
        content = outputs[CONTENT_STAGE - 1]
        predicted = self.content(content) + self.content.conv2.bias.to(content.dtype)
        latent, latents = w_plus, w_plus
        if self.heads:
            latent = self._predict_latent(outputs, *self.heads)
            latents = torch.cat([latent, w_plus])
        styles = self.generator.styles(latents, self.no_delta.expand(len(latents), -1).contiguous())
        synthesized, _ = self.generator.features(styles, _block(predicted))
        fused = self.fuser.fuse(self.fuser.join(predicted, synthesized[: len(face)]))
        if self.heads:
            features = self.editor.join(fused, synthesized[len(face) :])
        else:
            features = torch.cat([fused, synthesized], 3)
        return latent, features.clamp(-_LARGEST_HALF, _LARGEST_HALF).half()

    def edit(self, w_plus: Tensor, delta: Tensor, latent: Tensor, features: Tensor) -> Tensor:
        """Edit faces.

        Args:
            w_plus: e4e's latent, (N, L, w_dim) float32.
            delta: the edit, (N, S) float32.
            latent, features: of `invert`.

        Returns:
            IMAGE (N, H, W, 3) uint8.
        """
        n, features = len(w_plus), features.to(self.generator.dtype)
        latents = torch.cat([w_plus, latent]) if self.heads else w_plus
        styles = self.generator.styles(latents, delta.repeat(len(latents) // n, 1))
        changed, rgb = self.generator.features(styles, _block(features))
        changed = changed[:n]
        if self.heads:
            joined = features - convolve(changed, self.change_filters)
        else:
            photo, unedited = features.chunk(2, 3)
            photo = _drop_changed_details(photo, unedited, changed)
            joined = self.editor.join(photo, unedited - changed)
        # The RGB of 64 px is that of the edited latent.
        return self.generator.synthesis(
            styles[-n:], first=_block(features) + 1, features=self.editor.fuse(joined),
            skip=rgb[-n:], image_dtype=torch.uint8,
        )  # fmt: skip

    def _encode(self, face: Tensor) -> list[Tensor]:
        """Return the outputs of the backbone's stages."""
        x = self.stem(face)
        outputs = []
        for units in self.stages:
            for unit in units:
                x = unit(x)
            outputs.append(x)
        return outputs

    def _predict_latent(self, outputs: Sequence[Tensor], weight: Tensor, bias: Tensor) -> Tensor:
        """Predict the latent (N, L, w_dim) from the outputs of the stages."""
        pooled = torch.cat([_pool(x) for x in outputs], 3).permute(0, 3, 1, 2)
        offset = F.linear(pooled.flatten(1).to(weight.dtype), weight)
        return offset.float().view(-1, *bias.shape) + bias


def _block(features: Tensor) -> int:
    """Return the synthesis block whose features have this size, (N, r, r, C)."""
    return features.shape[1].bit_length() - 3


def _pool(x: Tensor) -> Tensor:
    """Average (N, H, W, C) to (N, 3, 3, C) float32, by means of slices: PyTorch's adaptive pooling
    takes a millisecond where channels are last."""
    for dim in (1, 2):
        windows = pooling_windows(x.shape[dim])
        means = [x.narrow(dim, a, b - a).mean(dim, dtype=torch.float32) for a, b in windows]
        x = torch.stack(means, dim)
    return x


def _drop_changed_details(features: Tensor, synthesized: Tensor, edited: Tensor) -> Tensor:
    """Compute `sfe.drop_changed_details` in float32, of (N, r, r, C)."""
    maps = (x.float().permute(0, 3, 1, 2) for x in (features, synthesized, edited))
    return drop_changed_details(*maps).permute(0, 2, 3, 1).to(features.dtype)


def _stages(parameters: Parameters) -> list[list[ResidualUnit]]:
    """Build the residual units of each stage of the backbone."""
    stage = "fs_backbone.block_{}"
    first_unit = f"{parameters.prefix}{stage}.0.conv1.weight"
    number_of_stages = count_modules(parameters.arrays, first_unit, first=1)
    return [
        [
            _unit(parameters, f"{stage.format(number)}.{i}", stride if i == 0 else 1)
            for i in range(parameters.count(f"{stage.format(number)}.{{}}.conv1.weight"))
        ]
        for number, stride in zip(range(1, number_of_stages + 1), STRIDES, strict=False)
    ]


def _unit(parameters: Parameters, name: str, stride: int) -> ResidualUnit:
    shortcut = f"{name}.downsample.0"
    names = UnitNames(
        norm1=f"{name}.bn1",
        conv1=f"{name}.conv1",
        norm2=f"{name}.bn2",
        prelu=f"{name}.prelu",
        conv2=f"{name}.conv2",
        norm3=f"{name}.bn3",
        shortcut=shortcut if parameters.has(f"{shortcut}.weight") else "",
        shortcut_norm=f"{name}.downsample.1",
    )
    return build_unit(parameters, names, stride)


def _branch_names(name: str) -> UnitNames:
    """Return the names of the modules of a `sfe.residual_branch`."""
    return UnitNames(*(f"{name}.{i}" for i in range(6)))


def _fuser(parameters: Parameters, name: str) -> Fuser:
    """Build a fuser; `name` is what the names of its modules begin with."""
    units = parameters.count(f"{name}body.{{}}.body.1.weight")
    return Fuser(
        parameters.filters(parameters.tensor(f"{name}conv.weight")),
        parameters.weight(parameters.tensor(f"{name}conv.bias")),
        [build_unit(parameters, _branch_names(f"{name}body.{i}.body")) for i in range(units)],
    )


def _heads(
    parameters: Parameters, weights: Mapping[str, np.ndarray]
) -> tuple[Tensor, Tensor] | None:
    """Join the layers that predict the latent: weight (L * w_dim, in), bias (L, w_dim) float32 with
    the average latent added. None: there are none."""
    name = "fs_backbone.styles.{}.{}"
    rows = range(parameters.count(name.format("{}", "weight")))
    if not rows:
        return None
    weight = torch.cat([parameters.tensor(name.format(i, "weight")) for i in rows])
    bias = torch.stack([parameters.tensor(name.format(i, "bias")) for i in rows])
    average = torch.from_numpy(np.array(weights["w_avg"]))
    return parameters.weight(weight), parameters.constant(bias + average)
