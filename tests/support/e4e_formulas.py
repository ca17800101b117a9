"""The formulas of e4e's kernels in PyTorch. Functions and arguments are named as the launchers."""

import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks.e4e import MAP2STYLE_SLOPE
from styleclip_server.engines.cuda.kernels.e4e import backbone, heads, pyramid

LAUNCHERS = {
    backbone: ("convolve_stem", "apply_prelu_", "compute_gates", "add_residual_"),
    pyramid: ("upsample_add_",),
    heads: ("bias_leaky_relu_", "convolve_heads_", "project_codes"),
}


def replace_kernels(monkeypatch):
    """Replace every launcher by its formula."""
    for module, names in LAUNCHERS.items():
        for name in names:
            monkeypatch.setattr(module, name, globals()[name])


def convolve_stem(
    face: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, dtype: torch.dtype
) -> Tensor:
    y = F.conv2d(face.to(dtype), weight, padding=1)
    return (
        F.prelu(y.float() + bias[:, None, None], slope).to(dtype).permute(0, 2, 3, 1).contiguous()
    )


def apply_prelu_(x: Tensor, border_bias: Tensor, slope: Tensor) -> Tensor:
    height, width = x.shape[1:3]
    rows = [0] + [1] * (height - 2) + [2]
    cols = [0] + [1] * (width - 2) + [2]
    v = x.float() + border_bias[rows][:, cols]
    return x.copy_(torch.where(v > 0, v, v * slope))


def compute_gates(y: Tensor, bias: Tensor, fc1: Tensor, fc2: Tensor) -> Tensor:
    mean = y.float().mean((1, 2)) + bias
    return torch.sigmoid(F.linear(F.relu(F.linear(mean, fc1)), fc2))


def add_residual_(
    y: Tensor, bias: Tensor, gates: Tensor | None, shortcut: Tensor, shortcut_bias: Tensor
) -> Tensor:
    gated = (1 if gates is None else gates[:, None, None]) * (y.float() + bias)
    return y.copy_(gated + shortcut.float() + shortcut_bias)


def upsample_add_(y: Tensor, bias: Tensor, coarse: Tensor) -> Tensor:
    size = y.shape[1], y.shape[2]
    upsampled = F.interpolate(
        coarse.float().permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=True
    )
    return y.copy_(upsampled.permute(0, 2, 3, 1) + y.float() + bias)


def bias_leaky_relu_(out: Tensor, x: Tensor, bias: Tensor) -> None:
    out.copy_(F.leaky_relu(x.float() + bias, MAP2STYLE_SLOPE).reshape(out.shape))


def convolve_heads_(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    y = F.conv2d(
        x.permute(0, 3, 4, 1, 2).flatten(1, 2),
        weight.permute(0, 1, 4, 2, 3).flatten(0, 1),
        stride=2,
        padding=1,
        groups=x.shape[3],
    )
    y = y.float().permute(0, 2, 3, 1) + bias.flatten()
    out.copy_(F.leaky_relu(y, MAP2STYLE_SLOPE).reshape(out.shape))


def project_codes(codes: Tensor, weight: Tensor, bias: Tensor, *, relative: bool = True) -> Tensor:
    scaled_weight = weight.float() * codes.shape[2] ** -0.5
    rows = torch.einsum("nlc,ldc->nld", codes.float(), scaled_weight)
    if relative:
        rows[:, 1:] += rows[:, :1]
    return rows + bias
