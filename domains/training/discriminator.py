"""StyleGAN2's residual discriminator, without custom operators, and what its training needs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_GROUP = 4  # images over which the last feature's deviation is computed


class EqualConv(nn.Module):
    """Convolution with equalized learning rate and leaky ReLU."""

    def __init__(self, in_channels: int, out_channels: int, size: int, activate: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, size, size))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if activate else None
        self.scale = 1 / math.sqrt(in_channels * size**2)

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight * self.scale, self.bias, padding=self.weight.shape[-1] // 2)
        return x if self.bias is None else F.leaky_relu(x, 0.2) * math.sqrt(2)


class Block(nn.Module):
    """Residual block that halves the resolution (Karras et al. 2020, section 4)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = EqualConv(in_channels, in_channels, 3, activate=True)
        self.conv2 = EqualConv(in_channels, out_channels, 3, activate=True)
        self.skip = EqualConv(in_channels, out_channels, 1, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        result = F.avg_pool2d(self.conv2(self.conv1(x)), 2)
        return (result + self.skip(F.avg_pool2d(x, 2))) / math.sqrt(2)


class Discriminator(nn.Module):
    """Images (N, 3, r, r) in [-1, 1] to logits (N,); channels by resolution, as the generator's."""

    def __init__(self, channels: Mapping[int, int]) -> None:
        super().__init__()
        widths = [channels[r] for r in sorted(channels, reverse=True)]  # from r to 4 px
        self.from_rgb = EqualConv(3, widths[0], 1, activate=True)
        self.blocks = nn.Sequential(*(Block(a, b) for a, b in pairwise(widths)))
        self.last = EqualConv(widths[-1] + 1, widths[-1], 3, activate=True)
        self.hidden = nn.Linear(widths[-1] * 16, widths[-1])
        self.head = nn.Linear(widths[-1], 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks(self.from_rgb(images))
        x = self.last(torch.cat([x, _deviation(x)], 1))
        x = F.leaky_relu(self.hidden(x.flatten(1)), 0.2)
        return self.head(x).squeeze(1).float()


def _deviation(x: Tensor) -> Tensor:
    """Return the mean deviation of features among groups of images, as one more channel."""
    n, _, height, width = x.shape
    group = _GROUP if n % _GROUP == 0 else 1
    groups = x.float().view(group, n // group, *x.shape[1:])
    deviation = (groups.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
    return deviation.repeat(group)[:, None, None, None].expand(n, 1, height, width).to(x.dtype)


def augment_for_discriminator(images: Tensor) -> Tensor:
    """Vary colors and shift images, differentiably (Zhao et al. 2020, DiffAugment)."""
    n, _, height, width = images.shape

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, device=images.device) * (high - low) + low

    images = images + uniform(-0.25, 0.25)
    gray = images.mean(1, keepdim=True)
    images = gray + (images - gray) * uniform(0.6, 1.4)
    mean = images.mean((1, 2, 3), keepdim=True)
    images = mean + (images - mean) * uniform(0.75, 1.25)
    shift = torch.randint(-(height // 16), height // 16 + 1, (n, 2), device=images.device)
    y = (torch.arange(height, device=images.device) + shift[:, :1]).clamp(0, height - 1)
    x = (torch.arange(width, device=images.device) + shift[:, 1:]).clamp(0, width - 1)
    rows = images.gather(2, y[:, None, :, None].expand(images.shape))
    return rows.gather(3, x[:, None, None, :].expand(images.shape))


def gradient_penalty(discriminator: Discriminator, images: Tensor) -> Tensor:
    """Compute R1 (Mescheder et al. 2018): the squared gradient at real images, in float32."""
    images = images.detach().requires_grad_(True)
    logits = discriminator(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
    return gradient.square().sum((1, 2, 3)).mean()
