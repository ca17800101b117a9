"""StyleGAN2's 3x3 convolutions as plain convolutions that cuDNN runs fast.

Features are (N, H, W, C), contiguous, of the filters' dtype; filters are (out, in, 3, 3).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

# Many channels fill the device with one phase of an upsampling convolution, or one row of phases.
MIN_CHANNELS_TO_SPLIT_PHASES = 256  # output channels
MIN_CHANNELS_TO_SPLIT_ROWS = 64  # output channels
MIN_PIXELS_TO_SPLIT = 4096  # input pixels of the batch
MAX_CHANNELS_TO_PAIR = 32  # output channels up to which pixels are computed in pairs

Filters = NDArray[np.floating]


class Convolution:
    """A 3x3 convolution with padding 1: (N, H, W, in) → (N, H, W, out).

    With few output channels the filters are those of pixel pairs, see `pair_filters`. Then the
    input has a column of zeros at both ends of each row: (N, H, W + 2, in).

    Args:
        weight: (out, in, 3, 3).
        dtype: of filters and features.
        allow_pairs: whether the input may have the columns of zeros.
    """

    def __init__(
        self,
        weight: Filters,
        device: torch.device,
        dtype: torch.dtype,
        allow_pairs: bool = True,
    ) -> None:
        self.uses_pixel_pairs = allow_pairs and len(weight) <= MAX_CHANNELS_TO_PAIR
        self.filters = _tensor(
            pair_filters(weight) if self.uses_pixel_pairs else weight, device, dtype
        )

    def __call__(self, x: Tensor) -> Tensor:
        if not self.uses_pixel_pairs:
            return convolve(x, self.filters, (1, 1))
        n, height, width, channels = x.shape
        pairs = x.view(n, height, width // 2, 2 * channels)
        return convolve(pairs, self.filters, (1, 0)).view(n, height, width - 2, -1)


class TransposedConvolution:
    """A stride-2 transposed 3x3 convolution: (N, H, W, in) → its four phases.

    Phase 2a + b has the pixels (2i + a, 2j + b) of the output, as `blur_and_apply_epilogue` takes
    them. One convolution of 2x2 taps gives all four (16 taps, of which 7 are zero); large layers
    compute each row of phases (12 taps) or each phase (9) on its own.

    Args:
        weight: (out, in, 3, 3).
        dtype: of filters and features.
    """

    def __init__(self, weight: Filters, device: torch.device, dtype: torch.dtype) -> None:
        fused, *split = (_tensor(filters, device, dtype) for filters in phase_filters(weight))
        self.fused, self.split = fused, split

    def __call__(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        if x.shape[0] * x.shape[1] * x.shape[2] < MIN_PIXELS_TO_SPLIT or not self.split:
            a, b, c, d = convolve(x, self.fused, (1, 1)).chunk(4, 3)
            return a, b, c, d
        outputs = [convolve(x, f, (f.shape[2] - 1, f.shape[3] - 1)) for f in self.split]
        if len(outputs) == 2:
            outputs = [*outputs[0].chunk(2, 3), *outputs[1].chunk(2, 3)]
        a, b, c, d = outputs
        return a, b, c, d


def convolve(
    x: Tensor, filters: Tensor, padding: int | tuple[int, int] = 0, stride: int = 1
) -> Tensor:
    """Convolve (N, H, W, in) with `filters` (out, in, k, k): without copies if these are channels
    last."""
    y = F.conv2d(x.permute(0, 3, 1, 2), filters, padding=padding, stride=stride)
    return y.permute(0, 2, 3, 1).contiguous()


def pair_filters(weight: Filters) -> Filters:
    """Join the filters of two neighboring pixels: (out, in, 3, 3) → (2 * out, 2 * in, 3, 2).

    This is a third more arithmetic, but few channels alone leave most of the matrix units idle.
    With a column of zeros in front, pair k has pixels 2k - 1 and 2k. Output pixel 2j + b sees by
    tap t pixel 2j + b + t - 1, which is number b + t from the first pixel of pair j.
    """
    out_channels, in_channels = weight.shape[:2]
    filters = np.zeros((2, out_channels, 2, in_channels, 3, 2), weight.dtype)
    for b in range(2):
        for t in range(3):
            filters[b, :, (b + t) % 2, :, :, (b + t) // 2] = weight[..., t]
    return filters.reshape(2 * out_channels, 2 * in_channels, 3, 2)


def phase_filters(weight: Filters) -> list[Filters]:
    """Turn the filters of a stride-2 transposed convolution into those of plain convolutions.

    Along one dimension output 2i sees x[i - 1] by tap 2 and x[i] by tap 0; output 2i + 1 sees
    x[i] by tap 1.

    Returns:
        The filters of all four phases, (4 * out, in, 2, 2). For enough output channels followed by
        those of the two rows of phases, (2 * out, in, 2 or 1, 2), or of the four phases.
    """
    out_channels, in_channels = weight.shape[:2]
    filters = np.zeros((2, 2, out_channels, in_channels, 2, 2), weight.dtype)
    taps = {0: ((0, 2), (1, 0)), 1: ((1, 1),)}  # phase → (tap of the filters, tap of `weight`)
    for a, rows in taps.items():
        for b, cols in taps.items():
            for i, row in rows:
                for k, col in cols:
                    filters[a, b, :, :, i, k] = weight[:, :, row, col]
    fused = filters.reshape(4 * out_channels, in_channels, 2, 2)
    if out_channels >= MIN_CHANNELS_TO_SPLIT_PHASES:
        return [fused, *(filters[a, b][:, :, a:, b:] for a in (0, 1) for b in (0, 1))]
    if out_channels >= MIN_CHANNELS_TO_SPLIT_ROWS:
        row_filters = filters.reshape(2, 2 * out_channels, in_channels, 2, 2)
        return [fused, *(row_filters[a][:, :, a:] for a in (0, 1))]
    return [fused]


def _tensor(filters: Filters, device: torch.device, dtype: torch.dtype) -> Tensor:
    tensor = torch.tensor(np.ascontiguousarray(filters), dtype=dtype, device=device)
    return tensor.to(memory_format=torch.channels_last)
