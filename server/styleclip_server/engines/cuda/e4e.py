"""e4e on a GPU: the exported encoder in float16, with few kernels.

Tov et al. 2021 with the IR-SE50 of Deng et al. 2019, as `styleclip_networks.e4e` has them. Beside
those of `residual_units` there are two exact changes:

- The first convolutions of the map2style heads on one pyramid level are one convolution.
- From there on, one kernel runs a step of all heads.

Features are (N, H, W, C), contiguous, of the encoder's dtype. For a given shape nothing waits for
the GPU, so that a CUDA graph can capture a call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from styleclip_networks.e4e import COARSE_SIZE, FINE_SIZE, MIDDLE_SIZE, pyramid_size
from styleclip_server.engines.cuda.convolutions import convolve
from styleclip_server.engines.cuda.kernels.e4e import heads, pyramid
from styleclip_server.engines.cuda.parameters import Parameters
from styleclip_server.engines.cuda.residual_units import (
    ConvParams,
    ResidualUnit,
    UnitNames,
    build_stem,
    build_unit,
)

HEAD_SIZES = (64, 32, 16, 8, 4, 2)  # of the heads' inputs, convolution by convolution


@dataclass(frozen=True)
class HeadStep:
    """The stride-2 convolutions of the map2style heads at one size.

    Attributes:
        size: side of the input in pixels.
        channels: C, of a head.
        num_new_heads: heads that start at this size, from a level of the pyramid.
        new_heads: their convolution, to num_new_heads * C channels.
        continuing_heads: weights (G, C, 3, 3, C), of the encoder's dtype, and biases (G, C) float32
            of the G heads that started at a larger size.
    """

    size: int
    channels: int
    num_new_heads: int
    new_heads: ConvParams | None
    continuing_heads: tuple[Tensor, Tensor] | None

    def __call__(self, levels: Mapping[int, Tensor], x: Tensor) -> Tensor:
        """Run one convolution of all heads so far.

        Args:
            levels: the pyramid by size, (N, size, size, C).
            x: features of the continuing heads, (N, size, size, G, C).

        Returns:
            (N, size / 2, size / 2, num_new_heads + G, C), the new heads in front.
        """
        n, half = levels[FINE_SIZE].shape[0], self.size // 2
        num_heads = self.num_new_heads + (x.shape[3] if self.continuing_heads else 0)
        out = levels[FINE_SIZE].new_empty((n, half, half, num_heads, self.channels))
        if self.new_heads:
            y = convolve(levels[self.size], self.new_heads.filters, padding=1, stride=2)
            new = out[:, :, :, : self.num_new_heads]
            heads.bias_leaky_relu_(new, y, self.new_heads.bias)
        if self.continuing_heads:
            continuing = out[:, :, :, self.num_new_heads :]
            heads.convolve_heads_(continuing, x, *self.continuing_heads)
        return out


class CudaEncoder:
    """FACE_CROP (N, 3, 256, 256) float32 in [-1, 1] → W_PLUS (N, L, w_dim) float32, with the
    average latent added.

    Args:
        weights: parameters by the names in e4e's `model.onnx`, float32. pSp's begin with `psp.`;
            its heads give the rows themselves, and not their differences from row 0.
        dtype: of the convolutions' weights and of the features.

    Raises:
        KeyError: a weight is missing.
        ValueError: the backbone has not four stages of different widths.
    """

    def __init__(
        self,
        weights: Mapping[str, np.ndarray],
        device: torch.device | str = "cuda",
        dtype: torch.dtype = torch.float16,
    ) -> None:
        self.relative = "psp.latlayer1.weight" not in weights
        prefix = "encoder." if self.relative else "psp."
        parameters = Parameters(weights, prefix, torch.device(device), dtype)
        self.stem = build_stem(parameters, "input_layer")
        num_units = parameters.count("body.{}.res_layer.1.weight")
        self.units = [_unit(parameters, f"body.{i}") for i in range(num_units)]
        self.stage_ends = _stage_ends(self.units)
        self.laterals = [_convolution(parameters, [f"latlayer{i}"]) for i in (1, 2)]
        self.head_steps = [_head_step(parameters, size) for size in HEAD_SIZES]
        self.linear_weight, self.linear_bias = _linear_layers(
            parameters, self.relative, weights.get("w_avg")
        )

    def __call__(self, face: Tensor) -> Tensor:
        fine_skip, middle_skip, coarse = self._backbone(face)
        middle = _upsample_add(coarse, middle_skip, self.laterals[0])
        fine = _upsample_add(middle, fine_skip, self.laterals[1])
        levels = {FINE_SIZE: fine, MIDDLE_SIZE: middle, COARSE_SIZE: coarse}
        x = fine.new_empty(0)  # no head has started
        for step in self.head_steps:
            x = step(levels, x)
        return heads.project_codes(
            x[:, 0, 0], self.linear_weight, self.linear_bias, relative=self.relative
        )

    def _backbone(self, face: Tensor) -> list[Tensor]:
        """Return the outputs of the last three stages, the finest first."""
        x = self.stem(face)
        outputs = []
        for i, unit in enumerate(self.units):
            x = unit(x)
            if i in self.stage_ends:
                outputs.append(x)
        return outputs[1:]


def _upsample_add(coarse: Tensor, skip: Tensor, lateral: ConvParams) -> Tensor:
    """Compute the next finer level of the pyramid, (N, 2h, 2w, D), from `coarse` (N, h, w, D) and
    the backbone's features of that size."""
    return pyramid.upsample_add_(convolve(skip, lateral.filters), lateral.bias, coarse)


def _unit(parameters: Parameters, name: str) -> ResidualUnit:
    parts, shortcut = f"{name}.res_layer.{{}}", f"{name}.shortcut_layer.{{}}"
    has_shortcut = parameters.has(shortcut.format(0) + ".weight")
    fc1, fc2 = (
        parameters.constant(parameters.tensor(parts.format(5) + f".fc{i}.weight").flatten(1))
        for i in (1, 2)
    )
    names = UnitNames(
        norm1=parts.format(0),
        conv1=parts.format(1),
        norm2="",
        prelu=parts.format(2),
        conv2=parts.format(3),
        norm3=parts.format(4),
        shortcut=shortcut.format(0) if has_shortcut else "",
        shortcut_norm=shortcut.format(1),
    )
    stride = 2 if name == "body.0" or has_shortcut else 1
    return build_unit(parameters, names, stride, (fc1, fc2))


def _convolution(parameters: Parameters, names: Sequence[str]) -> ConvParams:
    """Join convolutions of one input."""
    weights, biases = (
        torch.cat([parameters.tensor(f"{name}.{part}") for name in names])
        for part in ("weight", "bias")
    )
    return ConvParams(parameters.filters(weights), parameters.constant(biases))


def _stage_ends(units: list[ResidualUnit]) -> list[int]:
    """Return the index of the last unit of each stage."""
    starts = [i for i, unit in enumerate(units) if unit.stride == 2]
    if len(starts) != 4:
        raise ValueError(f"the encoder's backbone has {len(starts)} stages in place of four")
    return [*(i - 1 for i in starts[1:]), len(units) - 1]


def _head_step(parameters: Parameters, size: int) -> HeadStep:
    """Build the step at `size` of the heads that start there or at a larger size."""
    starts = [pyramid_size(row) for row in range(parameters.count("styles.{}.linear.weight"))]
    new = [f"styles.{row}.convs.0" for row, start in enumerate(starts) if start == size]
    continuing = [
        f"styles.{row}.convs.{2 * int(math.log2(start // size))}"
        for row, start in enumerate(starts)
        if start > size
    ]
    stacked = None
    if continuing:
        weights, biases = (
            torch.stack([parameters.tensor(f"{name}.{part}") for name in continuing])
            for part in ("weight", "bias")
        )
        weights = weights.permute(0, 1, 3, 4, 2)
        stacked = parameters.weight(weights), parameters.constant(biases)
    channels = parameters.array("styles.0.linear.weight").shape[1]
    new_heads = _convolution(parameters, new) if new else None
    return HeadStep(size, channels, len(new), new_heads, stacked)


def _linear_layers(
    parameters: Parameters, relative: bool, w_avg: np.ndarray | None
) -> tuple[Tensor, Tensor]:
    """Stack the heads' linear layers: weight (L, w_dim, C), bias (L, w_dim) with the average latent
    added."""
    names = [f"styles.{row}.linear" for row in range(parameters.count("styles.{}.linear.weight"))]
    weights, biases = (
        torch.stack([parameters.tensor(f"{name}.{part}") for name in names])
        for part in ("weight", "bias")
    )
    if relative:
        biases[1:] += biases[0].clone()
    if w_avg is not None:
        biases += torch.from_numpy(np.array(w_avg))
    return parameters.weight(weights), parameters.constant(biases)
