"""The feature pyramid between its convolutions.

Images are (N, C, H, W) in channels-last memory.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from styleclip_server.engines.cuda.kernels.e4e import reference
from styleclip_server.engines.cuda.kernels.e4e.launch import elementwise_blocks, runs_kernels


@triton.jit
def _upsample_add_kernel(
    y_ptr, bias_ptr, x_ptr, height, width, x_height, x_width, num_channels,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """y = y + bias + x in the size of y: bilinear, corners aligned."""
    pixels = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    image = tl.program_id(1)
    channels = tl.program_id(2) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    channel_mask = channels < num_channels
    mask = (pixels < height * width)[:, None] & channel_mask[None, :]
    row = (pixels // width).to(tl.float32) * ((x_height - 1).to(tl.float32) / (height - 1))
    col = (pixels % width).to(tl.float32) * ((x_width - 1).to(tl.float32) / (width - 1))
    top, left = row.to(tl.int32), col.to(tl.int32)
    row_weight, col_weight = (row - top)[:, None], (col - left)[:, None]
    bottom = tl.minimum(top + 1, x_height - 1)
    right = tl.minimum(left + 1, x_width - 1)
    x_ptrs = x_ptr + image * x_height * x_width * num_channels + channels[None, :]
    top_left = (top * x_width + left)[:, None] * num_channels
    top_right = (top * x_width + right)[:, None] * num_channels
    bottom_left = (bottom * x_width + left)[:, None] * num_channels
    bottom_right = (bottom * x_width + right)[:, None] * num_channels
    a = tl.load(x_ptrs + top_left, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(x_ptrs + top_right, mask=mask, other=0.0).to(tl.float32)
    upper = a + (b - a) * col_weight
    a = tl.load(x_ptrs + bottom_left, mask=mask, other=0.0).to(tl.float32)
    b = tl.load(x_ptrs + bottom_right, mask=mask, other=0.0).to(tl.float32)
    lower = a + (b - a) * col_weight
    y_ptrs = y_ptr + (image * height * width + pixels)[:, None] * num_channels + channels[None, :]
    y = tl.load(y_ptrs, mask=mask, other=0.0).to(tl.float32)
    y += tl.load(bias_ptr + channels, mask=channel_mask, other=0.0)[None, :]
    y += upper + (lower - upper) * row_weight
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=mask)


def upsample_add_(y: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """Add the bias and the coarser level, upsampled, to `y` in place.

    Args:
        y: output of the lateral convolution, (N, C, H, W).
        bias: of the lateral convolution, (C,) float32.
        x: the coarser level, (N, C, h, w).
    """
    if not runs_kernels(y):
        return reference.upsample_add_(y, bias, x)
    n, num_channels, height, width = y.shape
    block_pixels, block_channels = elementwise_blocks(num_channels)
    grid = triton.cdiv(height * width, block_pixels), n, triton.cdiv(num_channels, block_channels)
    _upsample_add_kernel[grid](
        y, bias, x, height, width, x.shape[2], x.shape[3], num_channels,
        BLOCK_PIXELS=block_pixels, BLOCK_CHANNELS=block_channels, num_warps=4,
    )  # fmt: skip
    return y
