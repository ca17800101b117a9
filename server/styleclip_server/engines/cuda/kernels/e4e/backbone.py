"""The backbone IR-SE50 (Deng et al. 2019) between its convolutions.

Features are (N, H, W, C), contiguous, of the encoder's dtype; the face alone is (N, 3, H, W).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from styleclip_server.engines.cuda.kernels.e4e.elementwise import BLOCK_SIZE, elementwise_blocks


@triton.jit
def _convolve_stem_kernel(
    face_ptr, weight_ptr, bias_ptr, slope_ptr, out_ptr, height, width, n_channels,
    BLOCK_WIDTH: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """out = prelu(weight ∗ face + bias), as a matmul of (pixels, 27) and (27, C)."""
    blocks = tl.cdiv(width, BLOCK_WIDTH)
    row = tl.program_id(0) // blocks
    cols = (tl.program_id(0) % blocks) * BLOCK_WIDTH + tl.arange(0, BLOCK_WIDTH)
    image = tl.program_id(1)
    channels = tl.arange(0, BLOCK_CHANNELS)
    channel_mask = channels < n_channels
    k = tl.arange(0, 32)  # 27 in use: color, row and column of a tap
    y = row + (k % 9) // 3 - 1
    x = cols[:, None] + (k % 3)[None, :] - 1
    face_mask = ((k < 27) & (y >= 0) & (y < height))[None, :] & (x >= 0) & (x < width)
    face_ptr += image * 3 * height * width
    face_ptrs = face_ptr + ((k // 9) * height * width + y * width)[None, :] + x
    pixels = tl.load(face_ptrs, mask=face_mask, other=0.0)
    weight_mask = (k < 27)[:, None] & channel_mask[None, :]
    weight_ptrs = weight_ptr + channels[None, :] * 27 + k[:, None]
    weight = tl.load(weight_ptrs, mask=weight_mask, other=0.0)
    acc = tl.dot(pixels.to(weight.dtype), weight, input_precision="ieee")
    acc += tl.load(bias_ptr + channels, mask=channel_mask, other=0.0)[None, :]
    slope = tl.load(slope_ptr + channels, mask=channel_mask, other=0.0)
    acc = tl.where(acc > 0, acc, acc * slope[None, :])
    out_ptrs = out_ptr + ((image * height + row) * width + cols)[:, None] * n_channels
    out_ptrs += channels[None, :]
    out_mask = (cols < width)[:, None] & channel_mask[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=out_mask)


def convolve_stem(
    face: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, dtype: torch.dtype
) -> Tensor:
    """Run the first 3x3 convolution, its bias and PReLU.

    Args:
        face: (N, 3, H, W) float32, contiguous.
        weight: (C, 3, 3, 3), contiguous, of the encoder's dtype.
        bias, slope: (C,) float32.
        dtype: of the result.

    Returns:
        Features, (N, H, W, C).
    """
    n, _, height, width = face.shape
    n_channels = len(bias)
    out = torch.empty((n, height, width, n_channels), dtype=dtype, device=face.device)
    block_width = min(128, triton.next_power_of_2(width))
    _convolve_stem_kernel[(height * triton.cdiv(width, block_width), n)](
        face, weight, bias, slope, out, height, width, n_channels,
        BLOCK_WIDTH=block_width, BLOCK_CHANNELS=max(16, triton.next_power_of_2(n_channels)),
        num_warps=4,
    )  # fmt: skip
    return out


@triton.jit
def _apply_prelu_kernel(
    x_ptr, border_bias_ptr, slope_ptr, height, width, n_channels,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """x = prelu(x + border_bias), whose row and column are 0, 1 or 2 by the pixel's place."""
    pixels = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    image = tl.program_id(1)
    channels = tl.program_id(2) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    channel_mask = channels < n_channels
    row, col = pixels // width, pixels % width
    bias_row = tl.where(row == 0, 0, tl.where(row == height - 1, 2, 1))
    bias_col = tl.where(col == 0, 0, tl.where(col == width - 1, 2, 1))
    mask = (pixels < height * width)[:, None] & channel_mask[None, :]
    x_ptrs = x_ptr + (image * height * width + pixels)[:, None] * n_channels + channels[None, :]
    v = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    bias_ptrs = border_bias_ptr + (bias_row * 3 + bias_col)[:, None] * n_channels
    v += tl.load(bias_ptrs + channels[None, :], mask=mask, other=0.0)
    slope = tl.load(slope_ptr + channels, mask=channel_mask, other=0.0)
    v = tl.where(v > 0, v, v * slope[None, :])
    tl.store(x_ptrs, v.to(x_ptr.dtype.element_ty), mask=mask)


def apply_prelu_(x: Tensor, border_bias: Tensor, slope: Tensor) -> Tensor:
    """Write prelu(x + border_bias) into `x`.

    Args:
        x: (N, H, W, C).
        border_bias: (3, 3, C) float32: the bias of the first row, the rows between and the last,
            by the same of the columns.
        slope: (C,) float32.
    """
    n, height, width, n_channels = x.shape
    block_pixels, block_channels = elementwise_blocks(n_channels)
    grid = triton.cdiv(height * width, block_pixels), n, triton.cdiv(n_channels, block_channels)
    _apply_prelu_kernel[grid](
        x, border_bias, slope, height, width, n_channels,
        BLOCK_PIXELS=block_pixels, BLOCK_CHANNELS=block_channels, num_warps=4,
    )  # fmt: skip
    return x


@triton.jit
def _sum_pixels_kernel(
    y_ptr, sums_ptr, n_pixels, part_size, n_channels,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """sums[n, part, c] = sum of y over the pixels of a part of the image."""
    part, image = tl.program_id(0), tl.program_id(1)
    channels = tl.program_id(2) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    channel_mask = channels < n_channels
    end = tl.minimum((part + 1) * part_size, n_pixels)
    acc = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for start in range(part * part_size, end, BLOCK_PIXELS):
        pixels = start + tl.arange(0, BLOCK_PIXELS)
        mask = (pixels < end)[:, None] & channel_mask[None, :]
        y_ptrs = y_ptr + (image * n_pixels + pixels)[:, None] * n_channels + channels[None, :]
        acc += tl.load(y_ptrs, mask=mask, other=0.0).to(tl.float32)
    sums_ptrs = sums_ptr + (image * tl.num_programs(0) + part) * n_channels + channels
    tl.store(sums_ptrs, tl.sum(acc, 0), mask=channel_mask)


@triton.jit
def _compute_gates_kernel(
    sums_ptr, bias_ptr, fc1_ptr, fc2_ptr, gates_ptr, n_pixels, n_parts, n_channels,
    n_hidden, BLOCK_PARTS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, BLOCK_HIDDEN: tl.constexpr,
):  # fmt: skip
    """gates = sigmoid(fc2 relu(fc1 (mean over pixels + bias)))."""
    image = tl.program_id(0)
    parts, channels = tl.arange(0, BLOCK_PARTS), tl.arange(0, BLOCK_CHANNELS)
    hidden = tl.arange(0, BLOCK_HIDDEN)
    channel_mask = channels < n_channels
    sums_ptrs = sums_ptr + (image * n_parts + parts)[:, None] * n_channels + channels[None, :]
    sums_mask = (parts < n_parts)[:, None] & channel_mask[None, :]
    sums = tl.load(sums_ptrs, mask=sums_mask, other=0.0)
    mean = tl.sum(sums, 0) / n_pixels
    mean += tl.load(bias_ptr + channels, mask=channel_mask, other=0.0)
    mask = (hidden < n_hidden)[:, None] & channel_mask[None, :]
    fc1_ptrs = fc1_ptr + hidden[:, None] * n_channels + channels[None, :]
    fc1 = tl.load(fc1_ptrs, mask=mask, other=0.0)
    activation = tl.maximum(tl.sum(fc1 * mean[None, :], 1), 0.0)
    fc2_ptrs = fc2_ptr + channels[None, :] * n_hidden + hidden[:, None]
    fc2 = tl.load(fc2_ptrs, mask=mask, other=0.0)
    logits = tl.sum(fc2 * activation[:, None], 0)
    gates_ptrs = gates_ptr + image * n_channels + channels
    tl.store(gates_ptrs, 1 / (1 + tl.exp(-logits)), mask=channel_mask)


def compute_gates(y: Tensor, bias: Tensor, fc1: Tensor, fc2: Tensor) -> Tensor:
    """Compute the gates of squeeze and excitation (Hu et al. 2018, section 3) for y + bias.

    Args:
        y: (N, H, W, C).
        bias: (C,) float32.
        fc1, fc2: weights of the two layers, (R, C) and (C, R) float32.

    Returns:
        The gates, (N, C) float32 in (0, 1).
    """
    n, height, width, n_channels = y.shape
    n_pixels, all_channels = height * width, triton.next_power_of_2(n_channels)
    n_parts = max(1, min(8192 // all_channels, n_pixels // 16))
    block_channels = min(64, all_channels)
    sums = torch.empty((n, n_parts, n_channels), dtype=torch.float32, device=y.device)
    _sum_pixels_kernel[(n_parts, n, triton.cdiv(n_channels, block_channels))](
        y, sums, n_pixels, triton.cdiv(n_pixels, n_parts), n_channels,
        BLOCK_PIXELS=BLOCK_SIZE // 64, BLOCK_CHANNELS=block_channels, num_warps=4,
    )  # fmt: skip
    gates = torch.empty((n, n_channels), dtype=torch.float32, device=y.device)
    _compute_gates_kernel[(n,)](
        sums, bias, fc1, fc2, gates, n_pixels, n_parts, n_channels, len(fc1),
        BLOCK_PARTS=triton.next_power_of_2(n_parts), BLOCK_CHANNELS=all_channels,
        BLOCK_HIDDEN=triton.next_power_of_2(len(fc1)), num_warps=8,
    )  # fmt: skip
    return gates


@triton.jit
def _add_residual_kernel(
    y_ptr, bias_ptr, gates_ptr, shortcut_ptr, shortcut_bias_ptr, n_pixels, width, n_channels,
    shortcut_image_stride, shortcut_row_stride, shortcut_col_stride,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr, HAS_GATES: tl.constexpr,
):  # fmt: skip
    """y = gates * (y + bias) + shortcut + shortcut_bias."""
    pixels = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    image = tl.program_id(1)
    channels = tl.program_id(2) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    channel_mask = channels < n_channels
    mask = (pixels < n_pixels)[:, None] & channel_mask[None, :]
    y_ptrs = y_ptr + (image * n_pixels + pixels)[:, None] * n_channels + channels[None, :]
    shortcut_ptr += image * shortcut_image_stride
    shortcut_offsets = pixels // width * shortcut_row_stride + pixels % width * shortcut_col_stride
    shortcut_ptrs = shortcut_ptr + shortcut_offsets[:, None] + channels[None, :]
    y = tl.load(y_ptrs, mask=mask, other=0.0).to(tl.float32)
    shortcut = tl.load(shortcut_ptrs, mask=mask, other=0.0).to(tl.float32)
    shift = tl.load(bias_ptr + channels, mask=channel_mask, other=0.0)
    if HAS_GATES:
        gate = tl.load(gates_ptr + image * n_channels + channels, mask=channel_mask, other=0.0)
        y, shift = y * gate[None, :], shift * gate
    shift += tl.load(shortcut_bias_ptr + channels, mask=channel_mask, other=0.0)
    y = y + shortcut + shift[None, :]
    tl.store(y_ptrs, y.to(y_ptr.dtype.element_ty), mask=mask)


def add_residual_(
    y: Tensor, bias: Tensor, gates: Tensor | None, shortcut: Tensor, shortcut_bias: Tensor
) -> Tensor:
    """Write gates * (y + bias) + shortcut + shortcut_bias into `y`.

    Args:
        y: (N, H, W, C).
        bias, shortcut_bias: (C,) float32.
        gates: (N, C) float32; None: all are 1.
        shortcut: (N, H, W, C), or a view that skips rows and columns.
    """
    n, height, width, n_channels = y.shape
    block_pixels, block_channels = elementwise_blocks(n_channels)
    grid = triton.cdiv(height * width, block_pixels), n, triton.cdiv(n_channels, block_channels)
    _add_residual_kernel[grid](
        y, bias, gates, shortcut, shortcut_bias, height * width, width, n_channels,
        shortcut.stride(0), shortcut.stride(1), shortcut.stride(2),
        BLOCK_PIXELS=block_pixels, BLOCK_CHANNELS=block_channels, HAS_GATES=gates is not None,
        num_warps=4,
    )  # fmt: skip
    return y
