"""StyleGAN2's upsampling: the resample filter alone, and fused with a transposed convolution."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

RESAMPLE_FILTER = (1.0, 3.0, 3.0, 1.0)  # of every upsampling, along each dimension

UpsamplingMode = Literal["transposed", "folded"]
"""How an upsampling convolution is computed. `transposed`: a stride-2 transposed convolution, then
a depthwise blur; least arithmetic, best on a CPU. `folded`: both as one 3x3 convolution with four
times the channels and a pixel shuffle; four times the arithmetic in a single pass."""


def resample_filter() -> Tensor:
    """Return the 4x4 resample filter with gain 4: zero insertion quarters the mean."""
    kernel = torch.outer(torch.tensor(RESAMPLE_FILTER), torch.tensor(RESAMPLE_FILTER))
    return kernel / kernel.sum() * 4


def fold_blur(weight: Tensor, kernel: Tensor) -> Tensor:
    """Fold a stride-2 transposed convolution and its blur into the weight of one convolution.

    The two filters make one 6x6 filter F. Output pixel 2j + a reads only its taps F[a + 4 - 2k],
    k = 0, 1, 2, at input pixels j - 1 + k: a 3x3 filter for each of the four phases.

    Args:
        weight: (out, in, 3, 3) of the transposed convolution.
        kernel: (4, 4) of the blur.

    Returns:
        (4 * out, in, 3, 3), to be followed by `F.pixel_shuffle(x, 2)`.
    """
    out_channels, in_channels = weight.shape[:2]
    full = F.conv2d(weight.reshape(-1, 1, 3, 3), kernel.to(weight.dtype)[None, None], padding=3)
    full = full.reshape(out_channels, in_channels, 3, 2, 3, 2).flip(2, 4)  # taps, phase a, …, b
    return full.permute(0, 3, 5, 1, 2, 4).reshape(4 * out_channels, in_channels, 3, 3)


class Blur(nn.Module):
    """Resample filter after a transposed convolution: (N, C, 2H+1, 2W+1) → (N, C, 2H, 2W)."""

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("kernel", resample_filter())

    def forward(self, x: Tensor) -> Tensor:
        weight = self.kernel.to(x.dtype).expand(self.channels, 1, 4, 4)
        return F.conv2d(x, weight, padding=1, groups=self.channels)


class Upsample(nn.Module):
    """Upsamples RGB by 2 with the resample filter: (N, 3, H, W) → (N, 3, 2H, 2W)."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", resample_filter())

    def forward(self, x: Tensor) -> Tensor:
        # Zero insertion and then the symmetric filter is a transposed convolution.
        weight = self.kernel.to(x.dtype).expand(3, 1, 4, 4)
        return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=3)
