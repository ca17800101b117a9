"""The formulas of e4e's kernels in PyTorch. Functions and arguments are named as the launchers."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEAKY_RELU_SLOPE = 0.01  # of map2style


def convolve_stem(
    face: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, dtype: torch.dtype
) -> Tensor:
    y = F.conv2d(face.to(dtype), weight, padding=1)
    y = F.prelu(y.float() + _per_channel(bias), slope).to(dtype)
    return y.contiguous(memory_format=torch.channels_last)


def apply_prelu_(x: Tensor, border_bias: Tensor, slope: Tensor) -> Tensor:
    height, width = x.shape[2:]
    rows = [0] + [1] * (height - 2) + [2]
    cols = [0] + [1] * (width - 2) + [2]
    bias = border_bias[rows][:, cols].permute(2, 0, 1)
    return x.copy_(F.prelu(x.float() + bias, slope))


def compute_gates(y: Tensor, bias: Tensor, fc1: Tensor, fc2: Tensor) -> Tensor:
    mean = y.float().mean((2, 3)) + bias
    return torch.sigmoid(F.linear(F.relu(F.linear(mean, fc1)), fc2))


def add_residual_(
    y: Tensor, bias: Tensor, gates: Tensor, shortcut: Tensor, shortcut_bias: Tensor
) -> Tensor:
    gated = gates[:, :, None, None] * (y.float() + _per_channel(bias))
    return y.copy_(gated + shortcut.float() + _per_channel(shortcut_bias))


def upsample_add_(y: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    size = y.shape[2], y.shape[3]
    upsampled = F.interpolate(x.float(), size=size, mode="bilinear", align_corners=True)
    return y.copy_(upsampled + y.float() + _per_channel(bias))


def activate_into(out: Tensor, x: Tensor, bias: Tensor) -> None:
    y = F.leaky_relu(x.float() + _per_channel(bias), LEAKY_RELU_SLOPE)
    out.copy_(y.permute(0, 2, 3, 1).reshape(out.shape))


def convolve_heads_into(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    y = F.conv2d(
        x.permute(0, 3, 4, 1, 2).flatten(1, 2),
        weight.permute(0, 1, 4, 2, 3).flatten(0, 1),
        stride=2,
        padding=1,
        groups=x.shape[3],
    )
    y = F.leaky_relu(y.float() + _per_channel(bias.flatten()), LEAKY_RELU_SLOPE)
    out.copy_(y.permute(0, 2, 3, 1).reshape(out.shape))


def project_codes(codes: Tensor, weight: Tensor, bias: Tensor, relative: bool) -> Tensor:
    scaled_weight = weight.float() * codes.shape[2] ** -0.5
    rows = torch.einsum("nlc,ldc->nld", codes.float(), scaled_weight)
    if relative:
        rows[:, 1:] += rows[:, :1]
    return rows + bias


def _per_channel(bias: Tensor) -> Tensor:
    return bias[:, None, None]
