"""The stem and the residual units of IR-SE50 and IResNet-50, without batch norms.

Deng et al. 2019, as `styleclip_networks.e4e` and `styleclip_networks.sfe` have them. Two exact
changes:

- A batch norm in front of a convolution is folded into it. Its shift does not reach the zero
  padding, so the bias differs along the border: nine values per channel.
- A batch norm after a convolution is folded into its weight and bias.

Features are (N, H, W, C), contiguous, of the network's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from styleclip_server.engines.cuda.convolutions import convolve
from styleclip_server.engines.cuda.kernels.e4e import backbone
from styleclip_server.engines.cuda.parameters import Parameters

BATCH_NORM_EPS = 1e-5  # PyTorch's


@dataclass(frozen=True)
class ConvParams:
    """Filters (D, C, k, k) in channels-last memory, of the network's dtype; bias (D,) float32."""

    filters: Tensor
    bias: Tensor


@dataclass(frozen=True)
class Stem:
    """The first 3x3 convolution, its bias and PReLU.

    Attributes:
        weight: (C, 3, 3, 3), contiguous, of the network's dtype.
        bias, slope: (C,) float32.
    """

    weight: Tensor
    bias: Tensor
    slope: Tensor

    def __call__(self, face: Tensor) -> Tensor:
        """Run the stem: (N, 3, H, W) float32 → (N, H, W, C)."""
        return backbone.convolve_stem(
            face.contiguous(), self.weight, self.bias, self.slope, self.weight.dtype
        )


@dataclass(frozen=True)
class ResidualBranch:
    """Two 3x3 convolutions from C to D channels, with a PReLU between them.

    Attributes:
        stride: of the second convolution.
        conv1: filters of the first convolution, (D, C, 3, 3), channels last.
        border_bias: (3, 3, D) float32 of the first convolution, see `backbone.apply_prelu_`.
        slope: (D,) float32.
        conv2: the second convolution, from D to D channels.
    """

    stride: int
    conv1: Tensor
    border_bias: Tensor
    slope: Tensor
    conv2: ConvParams

    def __call__(self, x: Tensor) -> Tensor:
        """Run the branch without the last bias: (N, H, W, C) → (N, H / stride, W / stride, D)."""
        y = convolve(x, self.conv1, padding=1)
        y = backbone.apply_prelu_(y, self.border_bias, self.slope)
        return convolve(y, self.conv2.filters, padding=1, stride=self.stride)


@dataclass(frozen=True)
class ResidualUnit:
    """A residual unit from C to D channels.

    Attributes:
        excitation: fc1 and fc2 of squeeze and excitation, (R, D) and (D, R) float32; None: the unit
            has none.
        shortcut: filters of the 1x1 convolution, (D, C, 1, 1); None: the identity, C is D.
        shortcut_bias: (D,) float32.
    """

    branch: ResidualBranch
    excitation: tuple[Tensor, Tensor] | None
    shortcut: Tensor | None
    shortcut_bias: Tensor

    @property
    def stride(self) -> int:
        return self.branch.stride

    def __call__(self, x: Tensor) -> Tensor:
        """Run the unit: (N, H, W, C) → (N, H / stride, W / stride, D)."""
        y, bias = self.branch(x), self.branch.conv2.bias
        gates = backbone.compute_gates(y, bias, *self.excitation) if self.excitation else None
        if self.shortcut is None:
            x = x[:, :: self.stride, :: self.stride]
        else:
            x = convolve(x, self.shortcut, stride=self.stride)
        return backbone.add_residual_(y, bias, gates, x, self.shortcut_bias)


@dataclass(frozen=True)
class UnitNames:
    """The names of a residual unit's modules; norm2: "" where no batch norm follows conv1."""

    norm1: str
    conv1: str
    norm2: str
    prelu: str
    conv2: str
    norm3: str
    shortcut: str = ""  # its convolution; "": the identity
    shortcut_norm: str = ""


def build_stem(parameters: Parameters, name: str) -> Stem:
    """Build the stem, whose modules 0 to 2 are convolution, batch norm and PReLU."""
    scale, shift = batch_norm(parameters, f"{name}.1")
    weight = parameters.tensor(f"{name}.0.weight") * scale[:, None, None, None]
    slope = parameters.tensor(f"{name}.2.weight")
    return Stem(parameters.weight(weight), parameters.constant(shift), parameters.constant(slope))


def build_branch(parameters: Parameters, names: UnitNames, stride: int = 1) -> ResidualBranch:
    """Build the two convolutions of a unit."""
    scale1, shift1 = batch_norm(parameters, names.norm1)
    scale3, shift3 = batch_norm(parameters, names.norm3)
    weight1, weight2 = (parameters.tensor(f"{n}.weight") for n in (names.conv1, names.conv2))
    bias1 = border_bias(weight1, shift1)
    weight1 = weight1 * scale1[:, None, None]
    if names.norm2:
        scale2, shift2 = batch_norm(parameters, names.norm2)
        weight1, bias1 = weight1 * scale2[:, None, None, None], bias1 * scale2 + shift2
    return ResidualBranch(
        stride,
        conv1=parameters.filters(weight1),
        border_bias=parameters.constant(bias1),
        slope=parameters.constant(parameters.tensor(f"{names.prelu}.weight")),
        conv2=ConvParams(
            parameters.filters(weight2 * scale3[:, None, None, None]), parameters.constant(shift3)
        ),
    )


def build_unit(
    parameters: Parameters,
    names: UnitNames,
    stride: int = 1,
    excitation: tuple[Tensor, Tensor] | None = None,
) -> ResidualUnit:
    """Build a unit; `excitation` as in `ResidualUnit`."""
    branch = build_branch(parameters, names, stride)
    shortcut, bias = None, torch.zeros_like(branch.conv2.bias)
    if names.shortcut:
        scale, shift = batch_norm(parameters, names.shortcut_norm)
        weight = parameters.tensor(f"{names.shortcut}.weight")
        shortcut = parameters.filters(weight * scale[:, None, None, None])
        bias = parameters.constant(shift)
    return ResidualUnit(branch, excitation, shortcut, bias)


def batch_norm(parameters: Parameters, name: str) -> tuple[Tensor, Tensor]:
    """Return a batch norm's scale and shift, (C,) float64."""
    weight, bias, mean, variance = (
        parameters.tensor(f"{name}.{part}").double()
        for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = weight / (variance + BATCH_NORM_EPS).sqrt()
    return scale, bias - mean * scale


def border_bias(weight: Tensor, shift: Tensor) -> Tensor:
    """Convolve the constant image `shift` (I,) by a 3x3 convolution with zero padding: output by
    first, inner and last row and column: weight (O, I, 3, 3) → (3, 3, O)."""
    taps = torch.einsum("oiyx,i->yxo", weight.double(), shift)
    inside = torch.tensor([[0, 1, 1], [1, 1, 1], [1, 1, 0]], dtype=taps.dtype)
    return torch.einsum("ry,cx,yxo->rco", inside, inside, taps)
