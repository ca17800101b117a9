"""e4e on a GPU: the exported encoder, in float16 and with few kernels.

Tov et al. 2021, with the IR-SE50 of Deng et al. 2019; the same numbers as
`styleclip_networks.e4e`, but for float16. What is changed, all of it exact:

- The batch norm before a unit's first convolution is folded into it. Its scale goes into the
  weights; its shift, which the zero padding does not get, becomes a bias that differs along the
  border: nine values for each channel. The batch norms behind convolutions go into their weights
  and a bias.
- The map2style heads of one level read the same features, so their first convolutions are one.
  From then on each kernel takes one step of all heads at once.

For a fixed shape nothing waits for the GPU, so that a CUDA graph can hold a call.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_server.engines.cuda.kernels import e4e as kernels

EPSILON = 1e-5  # of PyTorch's batch norm
# Latents fed from the coarse, the middle and the fine level of the pyramid begin here.
MIDDLE, FINE = 3, 7


@dataclass(frozen=True)
class Convolution:
    """Weight, channels-last, of the encoder's dtype; bias (C,), float32."""

    weight: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Unit:
    """A residual unit without batch norms. bias1 (3, 3, C) as in `kernels.prelu_`; `shortcut` is
    the 1x1 convolution of a unit that changes its width."""

    stride: int
    conv1: Tensor
    bias1: Tensor
    slope: Tensor
    conv2: Convolution
    fc1: Tensor
    fc2: Tensor
    shortcut: Tensor | None
    shortcut_bias: Tensor


@dataclass(frozen=True)
class Halving:
    """What map2style's heads do at `size` pixels. `begin` of them read a level of the pyramid, by
    one convolution for all (G * C outputs); `further` is for those that began at a larger size:
    weights (G, C, 3, 3, C) and biases (G, C)."""

    size: int
    begin: int
    first: Convolution | None
    further: tuple[Tensor, Tensor] | None


class Encoder:
    """FACE_CROP (N, 3, 256, 256) float32 in [-1, 1] → W_PLUS (N, L, w_dim) float32, the average
    latent added.

    Args:
        weights: the initialisers of `e4e`'s ONNX file by name, float32.
        dtype: of the convolutions' weights and of the activations.

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
        source = _Source(weights, device, dtype)
        self.dtype = dtype
        scale, shift = source.norm("input_layer.1")
        self.stem = source.weight("input_layer.0", scale[:, None, None, None]).contiguous()
        self.stem_bias = source.vector(shift)
        self.stem_slope = source.vector(source.read("input_layer.2.weight"))
        self.units = [_unit(source, i) for i in range(source.count("body."))]
        starts = [i for i, unit in enumerate(self.units) if unit.stride == 2]
        if len(starts) != 4:
            raise ValueError(f"the encoder's backbone has {len(starts)} stages in place of four")
        self.stage_ends = [*(i - 1 for i in starts[1:]), len(self.units) - 1]
        self.laterals = [source.convolution(f"latlayer{i}") for i in (1, 2)]

        latents = range(source.count("styles."))
        sizes = [16 if i < MIDDLE else 32 if i < FINE else 64 for i in latents]
        self.halvings = [_halving(source, sizes, size) for size in (64, 32, 16, 8, 4, 2)]
        linears = [f"styles.{i}.linear" for i in latents]
        self.linear = torch.stack([source.weight(name, 1.0) for name in linears])
        biases = torch.stack([source.read(f"{name}.bias") for name in linears])
        biases[1:] += biases[0].clone()
        if "w_avg" in weights:
            biases += torch.from_numpy(np.array(weights["w_avg"]))
        self.linear_bias = source.vector(biases)

    def __call__(self, face: Tensor) -> Tensor:
        fine_skip, middle_skip, coarse = self._backbone(face)
        middle = _grow(coarse, middle_skip, self.laterals[0])
        fine = _grow(middle, fine_skip, self.laterals[1])
        levels = {64: fine, 32: middle, 16: coarse}
        x = fine.new_empty(0)
        for halving in self.halvings:
            x = self._halve(halving, levels, x)
        return kernels.rows(x[:, 0, 0], self.linear, self.linear_bias)

    def _backbone(self, face: Tensor) -> list[Tensor]:
        """What the last three stages end with."""
        x = kernels.stem(face.contiguous(), self.stem, self.stem_bias, self.stem_slope, self.dtype)
        ends = []
        for i, unit in enumerate(self.units):
            x = _residual(unit, x)
            if i in self.stage_ends:
                ends.append(x)
        return ends[1:]

    def _halve(self, halving: Halving, levels: dict[int, Tensor], x: Tensor) -> Tensor:
        """(N, size, size, G, C) → half the size, with the heads that begin here in front."""
        n, width, half = levels[64].shape[0], self.linear.shape[2], halving.size // 2
        heads = halving.begin + (x.shape[3] if halving.further else 0)
        out = levels[64].new_empty((n, half, half, heads, width))
        if halving.first:
            level = levels[halving.size]
            y = F.conv2d(level, halving.first.weight, stride=2, padding=1)
            kernels.leaky_relu_into(
                out[:, :, :, : halving.begin], _channels_last(y), halving.first.bias
            )
        if halving.further:
            kernels.head_convolutions_into(out[:, :, :, halving.begin :], x, *halving.further)
        return out


def _residual(unit: Unit, x: Tensor) -> Tensor:
    y = _channels_last(F.conv2d(x, unit.conv1, padding=1))
    y = kernels.prelu_(y, unit.bias1, unit.slope)
    y = _channels_last(F.conv2d(y, unit.conv2.weight, stride=unit.stride, padding=1))
    gate = kernels.squeeze(y, unit.conv2.bias, unit.fc1, unit.fc2)
    if unit.shortcut is None:
        x = x[:, :, :: unit.stride, :: unit.stride]
    else:
        x = _channels_last(F.conv2d(x, unit.shortcut, stride=unit.stride))
    return kernels.residual_(y, unit.conv2.bias, gate, x, unit.shortcut_bias)


def _grow(x: Tensor, skip: Tensor, lateral: Convolution) -> Tensor:
    """The next finer level of the pyramid."""
    return kernels.upsample_add_(_channels_last(F.conv2d(skip, lateral.weight)), lateral.bias, x)


@dataclass(frozen=True)
class _Source:
    """The ONNX file's weights, as they are needed."""

    weights: Mapping[str, np.ndarray]
    device: torch.device | str
    dtype: torch.dtype

    def count(self, prefix: str) -> int:
        """How many modules of the encoder are numbered behind `prefix`."""
        start = f"encoder.{prefix}"
        return 1 + max(
            int(name[len(start) :].split(".")[0]) for name in self.weights if name.startswith(start)
        )

    def has(self, name: str) -> bool:
        return f"encoder.{name}" in self.weights

    def read(self, name: str) -> Tensor:
        return torch.from_numpy(np.array(self.weights[f"encoder.{name}"]))

    def norm(self, name: str) -> tuple[Tensor, Tensor]:
        """A batch norm's factors and summands (C,), float64."""
        read = (self.read(f"{name}.{k}") for k in ("weight", "bias", "running_mean", "running_var"))
        weight, bias, mean, variance = (tensor.double() for tensor in read)
        scale = weight / (variance + EPSILON).sqrt()
        return scale, bias - mean * scale

    def weight(self, name: str, scale: Tensor | float = 1.0) -> Tensor:
        return (self.read(f"{name}.weight") * scale).to(self.device, self.dtype)

    def channels_last(self, name: str, scale: Tensor | float = 1.0) -> Tensor:
        return _channels_last(self.weight(name, scale))

    def vector(self, values: Tensor) -> Tensor:
        return values.to(self.device, torch.float32).contiguous()

    def convolution(self, *names: str) -> Convolution:
        """The convolutions of one input, as one."""
        weight = torch.cat([self.weight(name) for name in names])
        biases = torch.cat([self.read(f"{name}.bias") for name in names])
        return Convolution(_channels_last(weight), self.vector(biases))


def _unit(source: _Source, number: int) -> Unit:
    name = f"body.{number}"
    scale1, shift1 = source.norm(f"{name}.res_layer.0")
    scale2, shift2 = source.norm(f"{name}.res_layer.4")
    shortcut, shortcut_bias = None, torch.zeros_like(shift2)
    if source.has(f"{name}.shortcut_layer.0.weight"):
        scale, shortcut_bias = source.norm(f"{name}.shortcut_layer.1")
        shortcut = source.channels_last(f"{name}.shortcut_layer.0", scale[:, None, None, None])
    return Unit(
        stride=2 if number == 0 or shortcut is not None else 1,
        conv1=source.channels_last(f"{name}.res_layer.1", scale1[:, None, None]),
        bias1=source.vector(_border_bias(source.read(f"{name}.res_layer.1.weight"), shift1)),
        slope=source.vector(source.read(f"{name}.res_layer.2.weight")),
        conv2=Convolution(
            source.channels_last(f"{name}.res_layer.3", scale2[:, None, None, None]),
            source.vector(shift2),
        ),
        fc1=source.vector(source.read(f"{name}.res_layer.5.fc1.weight").flatten(1)),
        fc2=source.vector(source.read(f"{name}.res_layer.5.fc2.weight").flatten(1)),
        shortcut=shortcut,
        shortcut_bias=source.vector(shortcut_bias),
    )


def _border_bias(weight: Tensor, shift: Tensor) -> Tensor:
    """What a 3x3 convolution with zero padding makes of the constant picture `shift` (I,), by
    first, inner and last row and column: (O, I, 3, 3) → (3, 3, O)."""
    taps = torch.einsum("oiyx,i->yxo", weight.double(), shift)
    inside = torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 0]], dtype=taps.dtype)
    return torch.einsum("ry,cx,yxo->rco", inside, inside, taps)


def _halving(source: _Source, sizes: list[int], size: int) -> Halving:
    begin = [f"styles.{i}.convs.0" for i, s in enumerate(sizes) if s == size]
    further = [
        f"styles.{i}.convs.{2 * int(math.log2(s // size))}" for i, s in enumerate(sizes) if s > size
    ]
    stacked = None
    if further:
        stacked = (
            torch.stack([source.weight(name).permute(0, 2, 3, 1) for name in further]).contiguous(),
            source.vector(torch.stack([source.read(f"{name}.bias") for name in further])),
        )
    return Halving(size, len(begin), source.convolution(*begin) if begin else None, stacked)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)
