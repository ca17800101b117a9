"""e4e on a GPU: the exported encoder in float16, with few kernels.

Tov et al. 2021 with the IR-SE50 of Deng et al. 2019, as `styleclip_networks.e4e` has them. Three
exact changes:

- A batch norm in front of a convolution is folded into it. Its shift does not reach the zero
  padding, so the bias differs along the border: nine values per channel. Batch norms behind a
  convolution become its weights and bias.
- The first convolutions of the map2style heads on one pyramid level are one convolution.
- From there on, one kernel runs a step of all heads.

For a given shape nothing waits for the GPU, so that a CUDA graph can capture a call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks.e4e import COARSE_SIZE, FINE_SIZE, MIDDLE_SIZE, pyramid_size
from styleclip_server.engines.cuda.kernels.e4e import backbone, heads, pyramid

BATCH_NORM_EPS = 1e-5  # PyTorch's
HEAD_SIZES = (64, 32, 16, 8, 4, 2)  # of the heads' inputs, convolution by convolution


@dataclass(frozen=True)
class ConvParams:
    """Weight, in channels-last memory, of the encoder's dtype; bias (C,) float32."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Stem:
    """The first convolution, its bias and PReLU: arguments of `backbone.convolve_stem`."""

    weight: Tensor
    bias: Tensor
    slope: Tensor


@dataclass(frozen=True)
class ResidualUnit:
    """A residual unit of IR-SE50 without batch norms.

    Attributes:
        border_bias: (3, 3, C) of the first convolution, see `backbone.apply_prelu_`.
        shortcut: the 1x1 convolution of a unit that changes its width.
    """

    stride: int
    conv1: Tensor
    border_bias: Tensor
    slope: Tensor
    conv2: ConvParams
    fc1: Tensor
    fc2: Tensor
    shortcut: Tensor | None
    shortcut_bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """(N, C, H, W) → (N, D, H / stride, W / stride)."""
        y = _channels_last(F.conv2d(x, self.conv1, padding=1))
        y = backbone.apply_prelu_(y, self.border_bias, self.slope)
        y = _channels_last(F.conv2d(y, self.conv2.weight, stride=self.stride, padding=1))
        gates = backbone.compute_gates(y, self.conv2.bias, self.fc1, self.fc2)
        if self.shortcut is None:
            x = x[:, :, :: self.stride, :: self.stride]
        else:
            x = _channels_last(F.conv2d(x, self.shortcut, stride=self.stride))
        return backbone.add_residual_(y, self.conv2.bias, gates, x, self.shortcut_bias)


@dataclass(frozen=True)
class HeadStep:
    """The stride-2 convolutions of the map2style heads at one size.

    Attributes:
        size: side of the input in pixels.
        channels: C, of a head.
        num_new_heads: heads that start at this size, from a level of the pyramid.
        first: their convolution, (num_new_heads * C outputs).
        further: weights (G, C, 3, 3, C) and biases (G, C) of the heads that started at a larger
            size.
    """

    size: int
    channels: int
    num_new_heads: int
    first: ConvParams | None
    further: tuple[Tensor, Tensor] | None

    def __call__(self, levels: Mapping[int, Tensor], x: Tensor) -> Tensor:
        """Features (N, size, size, G, C) of the heads so far → (N, size / 2, size / 2, …, C), with
        those that start at this size in front."""
        n, half = levels[FINE_SIZE].shape[0], self.size // 2
        num_heads = self.num_new_heads + (x.shape[3] if self.further else 0)
        out = levels[FINE_SIZE].new_empty((n, half, half, num_heads, self.channels))
        if self.first:
            y = F.conv2d(levels[self.size], self.first.weight, stride=2, padding=1)
            starting = out[:, :, :, : self.num_new_heads]
            heads.activate_into(starting, _channels_last(y), self.first.bias)
        if self.further:
            heads.convolve_heads_into(out[:, :, :, self.num_new_heads :], x, *self.further)
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
        parameters = _Parameters(weights, device, dtype)
        self.dtype = dtype
        self.stem = _stem(parameters)
        self.units = [_unit(parameters, i) for i in range(parameters.count("body."))]
        self.stage_ends = _stage_ends(self.units)
        self.laterals = [parameters.convolution(f"latlayer{i}") for i in (1, 2)]
        num_latents = parameters.count("styles.")
        sizes = [pyramid_size(row) for row in range(num_latents)]
        self.head_steps = [_head_step(parameters, sizes, size) for size in HEAD_SIZES]
        self.relative = parameters.encoder == "encoder"
        self.linear_weight, self.linear_bias = _linear_layers(
            parameters, num_latents, self.relative
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
        """The outputs of the last three stages."""
        stem = self.stem
        x = backbone.convolve_stem(
            face.contiguous(), stem.weight, stem.bias, stem.slope, self.dtype
        )
        outputs = []
        for i, unit in enumerate(self.units):
            x = unit(x)
            if i in self.stage_ends:
                outputs.append(x)
        return outputs[1:]


def _upsample_add(x: Tensor, skip: Tensor, lateral: ConvParams) -> Tensor:
    y = _channels_last(F.conv2d(skip, lateral.weight))
    return pyramid.upsample_add_(y, lateral.bias, x)


@dataclass(frozen=True)
class _Parameters:
    """The parameters of the ONNX file, as the layers need them."""

    weights: Mapping[str, np.ndarray]
    device: torch.device | str
    dtype: torch.dtype

    @property
    def encoder(self) -> str:
        """The name that the encoder has in the file."""
        return "psp" if "psp.latlayer1.weight" in self.weights else "encoder"

    def count(self, prefix: str) -> int:
        """How many modules of the encoder are numbered behind `prefix`."""
        start = f"{self.encoder}.{prefix}"
        return 1 + max(
            int(name[len(start) :].split(".")[0]) for name in self.weights if name.startswith(start)
        )

    def has(self, name: str) -> bool:
        return f"{self.encoder}.{name}" in self.weights

    def read(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self.weights[f"{self.encoder}.{name}"]))

    def average_latent(self) -> Tensor | None:
        average = self.weights.get("w_avg")
        return None if average is None else torch.from_numpy(np.array(average))

    def batch_norm(self, name: str) -> tuple[Tensor, Tensor]:
        """A batch norm's scale and shift, (C,) float64."""
        read = (self.read(f"{name}.{k}") for k in ("weight", "bias", "running_mean", "running_var"))
        weight, bias, mean, variance = (tensor.double() for tensor in read)
        scale = weight / (variance + BATCH_NORM_EPS).sqrt()
        return scale, bias - mean * scale

    def weight(self, name: str, scale: Tensor | float = 1.0) -> Tensor:
        return (self.read(f"{name}.weight") * scale).to(self.device, self.dtype)

    def filters(self, name: str, scale: Tensor | float = 1.0) -> Tensor:
        return _channels_last(self.weight(name, scale))

    def vector(self, values: Tensor) -> Tensor:
        return values.to(self.device, torch.float32).contiguous()

    def convolution(self, *names: str) -> ConvParams:
        """Convolutions of one input, as one."""
        weight = torch.cat([self.weight(name) for name in names])
        biases = torch.cat([self.read(f"{name}.bias") for name in names])
        return ConvParams(_channels_last(weight), self.vector(biases))


def _stem(parameters: _Parameters) -> Stem:
    scale, shift = parameters.batch_norm("input_layer.1")
    return Stem(
        parameters.weight("input_layer.0", scale[:, None, None, None]).contiguous(),
        parameters.vector(shift),
        parameters.vector(parameters.read("input_layer.2.weight")),
    )


def _unit(parameters: _Parameters, number: int) -> ResidualUnit:
    name = f"body.{number}"
    scale1, shift1 = parameters.batch_norm(f"{name}.res_layer.0")
    scale2, shift2 = parameters.batch_norm(f"{name}.res_layer.4")
    shortcut, shortcut_bias = None, torch.zeros_like(shift2)
    if parameters.has(f"{name}.shortcut_layer.0.weight"):
        scale, shortcut_bias = parameters.batch_norm(f"{name}.shortcut_layer.1")
        shortcut = parameters.filters(f"{name}.shortcut_layer.0", scale[:, None, None, None])
    border_bias = _border_bias(parameters.read(f"{name}.res_layer.1.weight"), shift1)
    return ResidualUnit(
        stride=2 if number == 0 or shortcut is not None else 1,
        conv1=parameters.filters(f"{name}.res_layer.1", scale1[:, None, None]),
        border_bias=parameters.vector(border_bias),
        slope=parameters.vector(parameters.read(f"{name}.res_layer.2.weight")),
        conv2=ConvParams(
            parameters.filters(f"{name}.res_layer.3", scale2[:, None, None, None]),
            parameters.vector(shift2),
        ),
        fc1=parameters.vector(parameters.read(f"{name}.res_layer.5.fc1.weight").flatten(1)),
        fc2=parameters.vector(parameters.read(f"{name}.res_layer.5.fc2.weight").flatten(1)),
        shortcut=shortcut,
        shortcut_bias=parameters.vector(shortcut_bias),
    )


def _stage_ends(units: list[ResidualUnit]) -> list[int]:
    """The number of the last unit of each stage."""
    starts = [i for i, unit in enumerate(units) if unit.stride == 2]
    if len(starts) != 4:
        raise ValueError(f"the encoder's backbone has {len(starts)} stages in place of four")
    return [*(i - 1 for i in starts[1:]), len(units) - 1]


def _border_bias(weight: Tensor, shift: Tensor) -> Tensor:
    """The output of a 3x3 convolution with zero padding for the constant image `shift` (I,), by
    first, inner and last row and column: weight (O, I, 3, 3) → (3, 3, O)."""
    taps = torch.einsum("oiyx,i->yxo", weight.double(), shift)
    inside = torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 0]], dtype=taps.dtype)
    return torch.einsum("ry,cx,yxo->rco", inside, inside, taps)


def _head_step(parameters: _Parameters, sizes: list[int], size: int) -> HeadStep:
    """The step at `size` of heads that start at `sizes`."""
    starting = [f"styles.{i}.convs.0" for i, start in enumerate(sizes) if start == size]
    further = [
        f"styles.{i}.convs.{2 * int(math.log2(start // size))}"
        for i, start in enumerate(sizes)
        if start > size
    ]
    stacked = None
    if further:
        weights = [parameters.weight(name).permute(0, 2, 3, 1) for name in further]
        biases = [parameters.read(f"{name}.bias") for name in further]
        stacked = torch.stack(weights).contiguous(), parameters.vector(torch.stack(biases))
    first = parameters.convolution(*starting) if starting else None
    channels = parameters.read("styles.0.linear.weight").shape[1]
    return HeadStep(size, channels, len(starting), first, stacked)


def _linear_layers(
    parameters: _Parameters, num_latents: int, relative: bool
) -> tuple[Tensor, Tensor]:
    """Weight (L, w_dim, C) and bias (L, w_dim) of the heads, the average latent added."""
    names = [f"styles.{i}.linear" for i in range(num_latents)]
    weight = torch.stack([parameters.weight(name) for name in names])
    biases = torch.stack([parameters.read(f"{name}.bias") for name in names])
    if relative:
        biases[1:] += biases[0].clone()
    average = parameters.average_latent()
    if average is not None:
        biases += average
    return weight, parameters.vector(biases)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
