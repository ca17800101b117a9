"""The second half of StyleGAN2's upsampling convolution: resample filter and epilogue.

Features are (N, H, W, C), contiguous, in half precision. Height and width are those of the layer's
input; what is stored is twice as large.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from styleclip_networks.constants import LEAKY_RELU_SLOPE
from styleclip_server.engines.cuda.kernels.stylegan2.epilogue import (
    CONV_CLAMP,
    FAR,
    NEAR,
    EpilogueParams,
    fills_device,
)

BLOCK_ROWS = 2  # input rows per program, in large batches


@triton.jit
def _blur_row(
    even_ptr, odd_ptr, image, row, cols, channels, mask,
    WIDTH: tl.constexpr, PIXEL_STRIDE: tl.constexpr, ROWS: tl.constexpr,
    EVEN_WIDTH: tl.constexpr, ODD_WIDTH: tl.constexpr,
):  # fmt: skip
    """The resample filter along a row of the transposed convolution, at columns 2 * cols and
    2 * cols + 1. Its even columns are a row of `even_ptr`, its odd ones of `odd_ptr`."""
    row_mask = mask & (row >= 0) & (row < ROWS)
    EVEN_STRIDE: tl.constexpr = EVEN_WIDTH * PIXEL_STRIDE
    ODD_STRIDE: tl.constexpr = ODD_WIDTH * PIXEL_STRIDE
    even_ptr = even_ptr + image * (ROWS * EVEN_STRIDE) + row * EVEN_STRIDE
    odd_ptr = odd_ptr + image * (ROWS * ODD_STRIDE) + row * ODD_STRIDE
    offsets = cols[:, None] * PIXEL_STRIDE + channels[None, :]
    first_ptrs = odd_ptr + offsets - PIXEL_STRIDE
    v0 = tl.load(first_ptrs, mask=row_mask & (cols > 0)[:, None], other=0.0)
    v1 = tl.load(even_ptr + offsets, mask=row_mask, other=0.0)
    v2 = tl.load(odd_ptr + offsets, mask=row_mask, other=0.0)
    v3 = tl.load(even_ptr + offsets + PIXEL_STRIDE, mask=row_mask, other=0.0)
    last_ptrs = odd_ptr + offsets + PIXEL_STRIDE
    v4 = tl.load(last_ptrs, mask=row_mask & (cols + 1 < WIDTH)[:, None], other=0.0)
    return (v0 + v3) * FAR + (v1 + v2) * NEAR, (v1 + v4) * FAR + (v2 + v3) * NEAR


@triton.jit
def _store_pixels(
    v, image, row, dcoef, bias, style, half_step, noise_ptr, out_ptr, cols, channels, mask,
    ODD: tl.constexpr, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    MEAN_SLOPE: tl.constexpr, CLAMP: tl.constexpr, HAS_NOISE: tl.constexpr, PADDING: tl.constexpr,
):  # fmt: skip
    """Epilogue of pixels 2 * cols + ODD of an output row, which are stored. `dcoef` and `bias` are
    multiplied by the style."""
    shift = bias[None, :]
    if HAS_NOISE:
        noise_ptrs = noise_ptr + row * (2 * WIDTH) + 2 * cols + ODD
        noise = tl.load(noise_ptrs, mask=cols < WIDTH, other=0.0)
        shift = noise.to(tl.float32)[:, None] * style[None, :] + shift
    v = v.to(tl.float32) * dcoef[None, :] + shift
    v = tl.minimum(v * MEAN_SLOPE + tl.abs(v) * half_step[None, :], CLAMP)
    OUT_WIDTH: tl.constexpr = 2 * WIDTH + 2 * PADDING
    pixels = row * OUT_WIDTH + 2 * cols + (ODD + PADDING)
    out_ptrs = out_ptr + image * (2 * HEIGHT * OUT_WIDTH * CHANNELS)
    out_ptrs += pixels[:, None] * CHANNELS + channels[None, :]
    tl.store(out_ptrs, v.to(out_ptr.dtype.element_ty), mask=mask)
    if PADDING:
        end = cols == (WIDTH - 1 if ODD else 0)
        zero = tl.zeros(v.shape, out_ptr.dtype.element_ty)
        NEIGHBOR: tl.constexpr = CHANNELS if ODD else -CHANNELS
        tl.store(out_ptrs + NEIGHBOR, zero, mask=mask & end[:, None])


@triton.jit
def _blur_and_apply_epilogue_kernel(
    phase00_ptr, phase01_ptr, phase10_ptr, phase11_ptr, dcoefs_ptr, noise_ptr, bias_ptr,
    style_ptr, out_ptr,
    STYLES_ROW_STRIDE: tl.constexpr, DCOEFS_ROW_STRIDE: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr, TENSORS: tl.constexpr,
    SLOPE: tl.constexpr, CLAMP: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    HAS_NOISE: tl.constexpr, PADDING: tl.constexpr,
):  # fmt: skip
    """out = clamp(leaky_relu((F ∗ t) * dcoef + noise + bias)) * style, with F the resample filter
    (1, 3, 3, 1) / 4 along each dimension and t the transposed convolution."""
    PIXEL_STRIDE: tl.constexpr = CHANNELS * (4 // TENSORS)
    EVEN_ROWS: tl.constexpr = HEIGHT + 1
    EVEN_WIDTH: tl.constexpr = WIDTH + 1
    ODD_ROWS: tl.constexpr = HEIGHT + 1 if TENSORS == 1 else HEIGHT
    ODD_WIDTH: tl.constexpr = WIDTH if TENSORS == 4 else WIDTH + 1
    image = tl.program_id(2).to(tl.int64)  # a batch may have more elements than int32 counts
    strip = tl.program_id(0) // tl.cdiv(WIDTH, BLOCK_COLS)
    cols = tl.program_id(0) % tl.cdiv(WIDTH, BLOCK_COLS) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    channels = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    channel_mask = channels < CHANNELS
    mask = (cols < WIDTH)[:, None] & channel_mask[None, :]
    # The style is multiplied into dcoef, bias and noise: one product fewer per pixel. The leaky
    # ReLU, which is MEAN_SLOPE * v + HALF_STEP * |v|, then depends on the style's sign.
    MEAN_SLOPE: tl.constexpr = (1 + SLOPE) / 2
    HALF_STEP: tl.constexpr = (1 - SLOPE) / 2
    style_ptrs = style_ptr + image * STYLES_ROW_STRIDE + channels
    style = tl.load(style_ptrs, mask=channel_mask, other=0.0)
    dcoef_ptrs = dcoefs_ptr + image * DCOEFS_ROW_STRIDE + channels
    dcoef = tl.load(dcoef_ptrs, mask=channel_mask, other=0.0) * style
    bias = tl.load(bias_ptr + channels, mask=channel_mask, other=0.0) * style
    half_step = tl.where(style < 0, -HALF_STEP, HALF_STEP)
    first = strip * BLOCK_ROWS
    # Rows 2 * first - 1 to 2 * first + 1 of the transposed convolution, blurred along the row, at
    # even and at odd columns. Each row is read once and stays in registers.
    even0, odd0 = _blur_row(
        phase10_ptr, phase11_ptr, image, first - 1, cols, channels, mask,
        WIDTH, PIXEL_STRIDE, ODD_ROWS, EVEN_WIDTH, ODD_WIDTH,
    )  # fmt: skip
    even1, odd1 = _blur_row(
        phase00_ptr, phase01_ptr, image, first, cols, channels, mask,
        WIDTH, PIXEL_STRIDE, EVEN_ROWS, EVEN_WIDTH, ODD_WIDTH,
    )  # fmt: skip
    even2, odd2 = _blur_row(
        phase10_ptr, phase11_ptr, image, first, cols, channels, mask,
        WIDTH, PIXEL_STRIDE, ODD_ROWS, EVEN_WIDTH, ODD_WIDTH,
    )  # fmt: skip
    for block_row in tl.static_range(BLOCK_ROWS):
        row = first + block_row
        even3, odd3 = _blur_row(
            phase00_ptr, phase01_ptr, image, row + 1, cols, channels, mask,
            WIDTH, PIXEL_STRIDE, EVEN_ROWS, EVEN_WIDTH, ODD_WIDTH,
        )  # fmt: skip
        even4, odd4 = _blur_row(
            phase10_ptr, phase11_ptr, image, row + 1, cols, channels, mask,
            WIDTH, PIXEL_STRIDE, ODD_ROWS, EVEN_WIDTH, ODD_WIDTH,
        )  # fmt: skip
        row_mask = mask & (row < HEIGHT)
        for phase in tl.static_range(4):
            if phase == 0:
                v = (even0 + even3) * FAR + (even1 + even2) * NEAR
            elif phase == 1:
                v = (odd0 + odd3) * FAR + (odd1 + odd2) * NEAR
            elif phase == 2:
                v = (even1 + even4) * FAR + (even2 + even3) * NEAR
            else:
                v = (odd1 + odd4) * FAR + (odd2 + odd3) * NEAR
            _store_pixels(
                v, image, 2 * row + phase // 2, dcoef, bias, style, half_step, noise_ptr, out_ptr,
                cols, channels, row_mask, phase % 2, HEIGHT, WIDTH, CHANNELS,
                MEAN_SLOPE, CLAMP, HAS_NOISE, PADDING,
            )  # fmt: skip
        even0, odd0, even1, odd1, even2, odd2 = even2, odd2, even3, odd3, even4, odd4


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
        next_style: normalized styles from the next convolution's on, (N, ≥ C) float32.
        padding: whether to put a pixel of zeros at both ends of every row.

    Returns:
        Features times the next style, (N, 2H, 2W, C), or (N, 2H, 2W + 2, C) with `padding`, of the
        dtype of `phases`.
    """
    n, n_channels = phases[0].shape[0], phases[0].shape[3]
    height, width = size
    shape = n, 2 * height, 2 * width + 2 * padding, n_channels
    out = torch.empty(shape, dtype=phases[0].dtype, device=phases[0].device)
    block_channels = min(triton.next_power_of_2(n_channels), 64)
    block_cols = min(triton.next_power_of_2(width), 512 // block_channels)
    block_rows = BLOCK_ROWS if fills_device(16 * n * height * width) else 1
    strips = triton.cdiv(height, block_rows) * triton.cdiv(width, block_cols)
    _blur_and_apply_epilogue_kernel[(strips, triton.cdiv(n_channels, block_channels), n)](
        *phases, dcoefs[:, epilogue.dcoef_start :], epilogue.noise, epilogue.bias, next_style, out,
        next_style.stride(0), dcoefs.stride(0), height, width, n_channels,
        TENSORS=4 * n_channels // phases[0].stride(2), SLOPE=LEAKY_RELU_SLOPE, CLAMP=CONV_CLAMP,
        BLOCK_ROWS=block_rows, BLOCK_COLS=block_cols, BLOCK_CHANNELS=block_channels,
        HAS_NOISE=epilogue.noise is not None, PADDING=int(padding),
    )  # fmt: skip
    return out
