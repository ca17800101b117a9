"""The feature pyramid between its convolutions.

Features are (N, H, W, C), contiguous, of the encoder's dtype.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from styleclip_server.engines.cuda.kernels.e4e.elementwise import elementwise_blocks


@triton.jit
def _upsample_add_kernel(
    y_ptr, bias_ptr, coarse_ptr, height, width, coarse_height, coarse_width, n_channels,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """y = y + bias + coarse in the size of y: bilinear, corners aligned."""
    pixels = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    image = tl.program_id(1)
    channels = tl.program_id(2) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    channel_mask = channels < n_channels
    mask = (pixels < height * width)[:, None] & channel_mask[None, :]
    row = (pixels // width).to(tl.float32) * ((coarse_height - 1).to(tl.float32) / (height - 1))
    col = (pixels % width).to(tl.float32) * ((coarse_width - 1).to(tl.float32) / (width - 1))
    top, left = row.to(tl.int32), col.to(tl.int32)
    row_weight, col_weight = (row - top)[:, None], (col - left)[:, None]
    bottom = tl.minimum(top + 1, coarse_height - 1)
    right = tl.minimum(left + 1, coarse_width - 1)
    coarse_ptrs = coarse_ptr + image * coarse_height * coarse_width * n_channels + channels[None, :]
    top_left = (top * coarse_width + left)[:, None] * n_channels
    top_right = (top * coarse_width + right)[:, None] * n_channels
    bottom_left = (bottom * coarse_width + left)[:, None] * n_channels
    bottom_right = (bottom * coarse_width + right)[:, None] * n_channels
    a = tl.load(coarse_ptrs + top_left, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(coarse_ptrs + top_right, mask=mask, other=0.0).to(tl.float32)
    upper = a + (b - a) * col_weight
    a = tl.load(coarse_ptrs + bottom_left, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(coarse_ptrs + bottom_right, mask=mask, other=0.0).to(tl.float32)
    lower = a + (b - a) * col_weight
    y_ptrs = y_ptr + (image * height * width + pixels)[:, None] * n_channels + channels[None, :]
    y = tl.load(y_ptrs, mask=mask, other=0.0).to(tl.float32)
    y += tl.load(bias_ptr + channels, mask=channel_mask, other=0.0)[None, :]
    y += upper + (lower - upper) * row_weight
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=mask)


def upsample_add_(y: Tensor, bias: Tensor, coarse: Tensor) -> Tensor:
    """Add the bias and the coarser level, upsampled, to `y` in place.

    Args:
        y: output of the lateral convolution, (N, H, W, C).
        bias: of the lateral convolution, (C,) float32.
        coarse: the coarser level, (N, h, w, C).
    """
    n, height, width, n_channels = y.shape
    block_pixels, block_channels = elementwise_blocks(n_channels)
    grid = triton.cdiv(height * width, block_pixels), n, triton.cdiv(n_channels, block_channels)
    _upsample_add_kernel[grid](
        y, bias, coarse, height, width, coarse.shape[1], coarse.shape[2], n_channels,
        BLOCK_PIXELS=block_pixels, BLOCK_CHANNELS=block_channels, num_warps=4,
    )  # fmt: skip
    return y
