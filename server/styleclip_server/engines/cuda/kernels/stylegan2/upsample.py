"""The second half of StyleGAN2's upsampling convolution: resample filter and epilogue.

Features are (N, H, W, C), contiguous, in half precision. `height` and `width` are those of the
layer's input; what is stored is twice as large.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from styleclip_server.engines.cuda.kernels.stylegan2 import epilogue as epilogues
from styleclip_server.engines.cuda.kernels.stylegan2.epilogue import (
    CONV_CLAMP,
    SLOPE,
    EpilogueParams,
)

BLOCK_ROWS = 2  # input rows per program, in large batches
# leaky_relu(v) = MEAN_SLOPE * v + HALF_STEP * |v|
MEAN_SLOPE = tl.constexpr((1 + SLOPE.value) / 2)
HALF_STEP = tl.constexpr((1 - SLOPE.value) / 2)


@triton.jit
def _blur_row(
    even_ptr, odd_ptr, image, row, cols, channels, mask, width: tl.constexpr,
    PIXEL_STRIDE: tl.constexpr, NUM_ROWS: tl.constexpr, EVEN_WIDTH: tl.constexpr,
    ODD_WIDTH: tl.constexpr,
):  # fmt: skip
    """The resample filter along a row of the transposed convolution, at columns 2 * cols and
    2 * cols + 1. Its even columns are a row of `even_ptr`, its odd ones of `odd_ptr`."""
    row_mask = mask & (row >= 0) & (row < NUM_ROWS)
    EVEN_STRIDE: tl.constexpr = EVEN_WIDTH * PIXEL_STRIDE
    ODD_STRIDE: tl.constexpr = ODD_WIDTH * PIXEL_STRIDE
    even_ptr = even_ptr + image * (NUM_ROWS * EVEN_STRIDE) + row * EVEN_STRIDE
    odd_ptr = odd_ptr + image * (NUM_ROWS * ODD_STRIDE) + row * ODD_STRIDE
    offsets = cols[:, None] * PIXEL_STRIDE + channels[None, :]
    v0 = tl.load(odd_ptr + offsets - PIXEL_STRIDE, row_mask & (cols > 0)[:, None], 0.0)
    v1 = tl.load(even_ptr + offsets, row_mask, 0.0)
    v2 = tl.load(odd_ptr + offsets, row_mask, 0.0)
    v3 = tl.load(even_ptr + offsets + PIXEL_STRIDE, row_mask, 0.0)
    v4 = tl.load(odd_ptr + offsets + PIXEL_STRIDE, row_mask & (cols + 1 < width)[:, None], 0.0)
    return (v0 + v3) * 0.25 + (v1 + v2) * 0.75, (v1 + v4) * 0.25 + (v2 + v3) * 0.75


@triton.jit
def _store_pixels(
    v, image, row, odd: tl.constexpr, dcoef, bias, style, half_step, noise_ptr, out_ptr,
    cols, channels, mask,
    height: tl.constexpr, width: tl.constexpr, num_channels: tl.constexpr,
    HAS_NOISE: tl.constexpr, PADDING: tl.constexpr,
):  # fmt: skip
    """Epilogue of pixels 2 * cols + odd of an output row, which are stored."""
    shift = bias[None, :]
    if HAS_NOISE:
        noise = tl.load(noise_ptr + row * (2 * width) + 2 * cols + odd, cols < width, 0.0)
        shift = noise.to(tl.float32)[:, None] * style[None, :] + shift
    v = v.to(tl.float32) * dcoef[None, :] + shift
    v = tl.minimum(v * MEAN_SLOPE + tl.abs(v) * half_step[None, :], CONV_CLAMP)
    out_width: tl.constexpr = 2 * width + 2 * PADDING
    pixels = row * out_width + 2 * cols + (odd + PADDING)
    out_ptrs = out_ptr + image * (2 * height * out_width * num_channels)
    out_ptrs += pixels[:, None] * num_channels + channels[None, :]
    tl.store(out_ptrs, v.to(out_ptr.dtype.element_ty), mask)
    if PADDING:
        end = cols == (width - 1 if odd else 0)
        zero = tl.zeros(v.shape, out_ptr.dtype.element_ty)
        neighbor: tl.constexpr = num_channels if odd else -num_channels
        tl.store(out_ptrs + neighbor, zero, mask & end[:, None])


@triton.jit
def _blur_and_apply_epilogue_kernel(
    phase00_ptr, phase01_ptr, phase10_ptr, phase11_ptr, dcoefs_ptr, noise_ptr, bias_ptr,
    style_ptr, out_ptr,
    styles_row_stride: tl.constexpr, dcoefs_row_stride: tl.constexpr,
    height: tl.constexpr, width: tl.constexpr, num_channels: tl.constexpr,
    NUM_TENSORS: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr, HAS_NOISE: tl.constexpr, PADDING: tl.constexpr,
):  # fmt: skip
    """out = clamp(leaky_relu((F ∗ t) * dcoef + noise + bias)) * style, with F the resample filter
    (1, 3, 3, 1) / 4 along each dimension and t the transposed convolution."""
    PIXEL_STRIDE: tl.constexpr = num_channels * (4 // NUM_TENSORS)
    EVEN_ROWS: tl.constexpr = height + 1
    EVEN_WIDTH: tl.constexpr = width + 1
    ODD_ROWS: tl.constexpr = height + 1 if NUM_TENSORS == 1 else height
    ODD_WIDTH: tl.constexpr = width if NUM_TENSORS == 4 else width + 1
    image = tl.program_id(2).to(tl.int64)  # a batch may have more elements than int32 counts
    strip = tl.program_id(0) // tl.cdiv(width, BLOCK_COLS)
    cols = tl.program_id(0) % tl.cdiv(width, BLOCK_COLS) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    channels = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    channel_mask = channels < num_channels
    mask = (cols < width)[:, None] & channel_mask[None, :]
    # The style is multiplied into dcoef, bias and noise: one product fewer per pixel. The leaky
    # ReLU of v * style, by the style's sign, is then MEAN_SLOPE * v ± HALF_STEP * |v|.
    style = tl.load(style_ptr + image * styles_row_stride + channels, channel_mask, 0.0)
    dcoef_ptrs = dcoefs_ptr + image * dcoefs_row_stride + channels
    dcoef = tl.load(dcoef_ptrs, channel_mask, 0.0) * style
    bias = tl.load(bias_ptr + channels, channel_mask, 0.0) * style
    half_step = tl.where(style < 0, -HALF_STEP, HALF_STEP)
    first = strip * BLOCK_ROWS
    # Rows 2 * first - 1 to 2 * first + 1 of the transposed convolution, blurred along the row:
    # e at even columns, o at odd ones. Each row is read once and stays in registers.
    e0, o0 = _blur_row(
        phase10_ptr, phase11_ptr, image, first - 1, cols, channels, mask, width,
        PIXEL_STRIDE, ODD_ROWS, EVEN_WIDTH, ODD_WIDTH,
    )  # fmt: skip
    e1, o1 = _blur_row(
        phase00_ptr, phase01_ptr, image, first, cols, channels, mask, width,
        PIXEL_STRIDE, EVEN_ROWS, EVEN_WIDTH, ODD_WIDTH,
    )  # fmt: skip
    e2, o2 = _blur_row(
        phase10_ptr, phase11_ptr, image, first, cols, channels, mask, width,
        PIXEL_STRIDE, ODD_ROWS, EVEN_WIDTH, ODD_WIDTH,
    )  # fmt: skip
    for block_row in tl.static_range(BLOCK_ROWS):
        row = first + block_row
        e3, o3 = _blur_row(
            phase00_ptr, phase01_ptr, image, row + 1, cols, channels, mask, width,
            PIXEL_STRIDE, EVEN_ROWS, EVEN_WIDTH, ODD_WIDTH,
        )  # fmt: skip
        e4, o4 = _blur_row(
            phase10_ptr, phase11_ptr, image, row + 1, cols, channels, mask, width,
            PIXEL_STRIDE, ODD_ROWS, EVEN_WIDTH, ODD_WIDTH,
        )  # fmt: skip
        row_mask = mask & (row < height)
        for phase in tl.static_range(4):
            if phase == 0:
                v = (e0 + e3) * 0.25 + (e1 + e2) * 0.75
            elif phase == 1:
                v = (o0 + o3) * 0.25 + (o1 + o2) * 0.75
            elif phase == 2:
                v = (e1 + e4) * 0.25 + (e2 + e3) * 0.75
            else:
                v = (o1 + o4) * 0.25 + (o2 + o3) * 0.75
            _store_pixels(
                v, image, 2 * row + phase // 2, phase % 2, dcoef, bias, style, half_step,
                noise_ptr, out_ptr, cols, channels, row_mask,
                height, width, num_channels, HAS_NOISE, PADDING,
            )  # fmt: skip
        e0, o0, e1, o1, e2, o2 = e2, o2, e3, o3, e4, o4


def blur_and_apply_epilogue(
    phases: tuple[Tensor, Tensor, Tensor, Tensor],
    size: tuple[int, int],
    epilogue: EpilogueParams,
    dcoefs: Tensor,
    next_style: Tensor,
    padding: bool = False,
) -> Tensor:
    """Blur a stride-2 transposed convolution with the resample filter, and apply the epilogue.

    Args:
        phases: phase 2a + b has at (i, j) pixel (2i + a, 2j + b) of the transposed convolution:
            (N, H + 1 or H, W + 1 or W, C). They are views of one tensor, in whose channels all
            four interleave; of two, (N, H + 1 - a, W + 1, 2C), with the phases of a row in each;
            or four tensors, (N, H + 1 - a, W + 1 - b, C).
        size: (H, W) of the layer's input.
        dcoefs: all coefficients, (N, outputs) float32.
        next_style: normalized styles from the next convolution's on, (N, ≥ C).
        padding: whether to put a pixel of zeros at both ends of every row.

    Returns:
        Features times the next style, (N, 2H, 2W, C), or (N, 2H, 2W + 2, C) with `padding`.
    """
    n, num_channels = phases[0].shape[0], phases[0].shape[3]
    height, width = size
    shape = n, 2 * height, 2 * width + 2 * padding, num_channels
    out = torch.empty(shape, dtype=phases[0].dtype, device=phases[0].device)
    block_channels = min(triton.next_power_of_2(num_channels), 64)
    block_cols = min(triton.next_power_of_2(width), 512 // block_channels)
    block_rows = BLOCK_ROWS if n * height * width >= epilogues.MANY_PIXELS // 16 else 1
    strips = triton.cdiv(height, block_rows) * triton.cdiv(width, block_cols)
    _blur_and_apply_epilogue_kernel[(strips, triton.cdiv(num_channels, block_channels), n)](
        *phases, dcoefs[:, epilogue.dcoef_start :], epilogue.noise, epilogue.bias, next_style, out,
        next_style.stride(0), dcoefs.stride(0), height, width, num_channels,
        NUM_TENSORS=4 * num_channels // phases[0].stride(2),
        BLOCK_ROWS=block_rows, BLOCK_COLS=block_cols, BLOCK_CHANNELS=block_channels,
        HAS_NOISE=epilogue.noise is not None, PADDING=int(padding),
    )  # fmt: skip
    return out
