"""StyleGAN2's last convolution and its epilogue, up to the image.

Features are (N, H, W, C), contiguous, float16. The convolution's sums stay in registers, and toRGB
is also a matmul.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from styleclip_networks.constants import LEAKY_RELU_SLOPE
from styleclip_server.engines.cuda.kernels.stylegan2.epilogue import (
    FAR,
    NEAR,
    ROUND_TO_INTEGER,
    EpilogueParams,
    ToRGBParams,
)

BLOCK_PAIRS = 64  # pairs of neighboring pixels that a program computes at once
NUM_STAGES = 2  # rows of pixels in shared memory or on their way there
UNROLL = 4  # rows
BLOCK_ROWS, SMALL_BATCH_BLOCK_ROWS = 66, 34  # rows per program
LARGE_BATCH = 4  # images
NUM_WARPS = 4


@gluon.jit
def _fetch_alternate_pixels(x_desc, x_smem, FIRST: gl.constexpr, barrier, image, row, left):
    """Start copying every second pixel of a row: from pixel 2 * left - 1 on, and from each of
    the next three; zeros outside the image."""
    mbarrier.expect(barrier, 4 * x_desc.block_type.nbytes)
    for p in gl.static_range(4):
        offsets = [image, row, left + (p + 1) // 2 - 1, (p + 1) % 2, 0]
        tma.async_copy_global_to_shared(x_desc, offsets, barrier, x_smem.index(FIRST + p))


@gluon.jit
def _multiply_row(x_smem, FIRST: gl.constexpr, weight_smem, even2, odd2, even1, odd1):
    """Add a row's products to the even and odd pixels of the row above it (by row 2 of the
    filters) and of its own (row 1), and start the sums of the row below (row 0). All sums are
    (BLOCK_PAIRS, C) float32."""
    layout: gl.constexpr = even2.type.layout
    a_layout: gl.constexpr = gl.DotOperandLayout(0, layout, 2)
    PAIRS: gl.constexpr = even2.shape[0]
    CHANNELS: gl.constexpr = even2.shape[1]
    tap: gl.constexpr = (CHANNELS, CHANNELS)
    even0 = gl.zeros((PAIRS, CHANNELS), gl.float32, layout)
    odd0 = gl.zeros((PAIRS, CHANNELS), gl.float32, layout)
    for p in gl.static_range(4):
        a = x_smem.index(FIRST + p).reshape((PAIRS, CHANNELS)).load(a_layout)
        if p < 3:
            even0 = warpgroup_mma(a, weight_smem.index(p).reshape(tap), even0, is_async=True)
            even1 = warpgroup_mma(a, weight_smem.index(3 + p).reshape(tap), even1, is_async=True)
            even2 = warpgroup_mma(a, weight_smem.index(6 + p).reshape(tap), even2, is_async=True)
        if p > 0:
            odd0 = warpgroup_mma(a, weight_smem.index(p - 1).reshape(tap), odd0, is_async=True)
            odd1 = warpgroup_mma(a, weight_smem.index(2 + p).reshape(tap), odd1, is_async=True)
            odd2 = warpgroup_mma(a, weight_smem.index(5 + p).reshape(tap), odd2, is_async=True)
    return warpgroup_mma_wait(0, deps=(even2, odd2, even1, odd1, even0, odd0))


@gluon.jit
def _load_skip(
    skip_ptr, image, COLOR: gl.constexpr, row, col, mask,
    HEIGHT: gl.constexpr, WIDTH: gl.constexpr,
):  # fmt: skip
    """The four pixels of `epilogue._upsample_skip`, loaded before they are needed."""
    near_row, near_col = row // 2, col // 2
    far_row, far_col = near_row - 1 + 2 * (row % 2), near_col - 1 + 2 * (col % 2)
    skip_ptr += (image * 3 + COLOR) * ((HEIGHT // 2) * (WIDTH // 2))
    far_row_mask = mask & (far_row >= 0) & (far_row < HEIGHT // 2)
    far_col_mask = (far_col >= 0) & (far_col < WIDTH // 2)
    near_ptrs = skip_ptr + near_row * (WIDTH // 2)
    a = gl.load(near_ptrs + near_col, mask=mask, other=0.0)
    b = gl.load(near_ptrs + far_col, mask=mask & far_col_mask, other=0.0)
    far_ptrs = skip_ptr + far_row * (WIDTH // 2)
    c = gl.load(far_ptrs + near_col, mask=far_row_mask, other=0.0)
    d = gl.load(far_ptrs + far_col, mask=far_row_mask & far_col_mask, other=0.0)
    return a, b, c, d


@gluon.jit
def _store_color(
    total, skip, rgb_bias_ptr, COLOR: gl.constexpr, rgb_ptr, image, row, col, mask,
    HEIGHT: gl.constexpr, WIDTH: gl.constexpr,
):  # fmt: skip
    """One color of `epilogue._store_rgb`: toRGB's sum, bias and upsampled skip."""
    a, b, c, d = skip
    value = total + gl.load(rgb_bias_ptr + COLOR)
    value += NEAR * NEAR * a + NEAR * FAR * (b + c) + FAR * FAR * d
    if rgb_ptr.dtype.element_ty == gl.uint8:
        value = (gl.minimum(gl.maximum(value, -1.0), 1.0) + 1.0) * 127.5
        value = (value + ROUND_TO_INTEGER) - ROUND_TO_INTEGER
        rgb_ptrs = rgb_ptr + (image * HEIGHT * WIDTH + row * WIDTH + col) * 3 + COLOR
        gl.store(rgb_ptrs, value.to(gl.uint8), mask=mask)
    else:
        if rgb_ptr.dtype.element_ty != gl.float32:
            value = gl.minimum(gl.maximum(value, -1.0), 1.0)
        rgb_ptrs = rgb_ptr + (image * 3 + COLOR) * (HEIGHT * WIDTH) + row * WIDTH + col
        gl.store(rgb_ptrs, value.to(rgb_ptr.dtype.element_ty), mask=mask)


@gluon.jit
def _convolve_to_rgb_kernel(
    x_desc, weight_desc, dcoefs_ptr, noise_ptr, bias_ptr, rgb_weight_ptr, rgb_bias_ptr,
    rgb_style_ptr, skip_ptr, rgb_ptr, styles_row_stride, dcoefs_row_stride,
    HEIGHT: gl.constexpr, WIDTH: gl.constexpr, CHANNELS: gl.constexpr, SLOPE: gl.constexpr,
    BLOCK_PAIRS: gl.constexpr, BLOCK_ROWS: gl.constexpr, NUM_STAGES: gl.constexpr,
    UNROLL: gl.constexpr, HAS_NOISE: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """rgb of `epilogue._apply_epilogue_kernel` for weight ∗ x in place of x, not clamped.

    A program computes BLOCK_ROWS rows of 2 * BLOCK_PAIRS pixels, row after row: the even and the
    odd pixels are a matmul each, of (BLOCK_PAIRS, C) and (C, C) per tap."""
    acc_layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[num_warps, 1], instr_shape=[16, CHANNELS, 16]
    )
    flat_layout: gl.constexpr = gl.BlockedLayout([1], [32], [num_warps], [0])
    rgb_acc_layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[num_warps, 1], instr_shape=[16, 8, 16]
    )
    a_layout: gl.constexpr = gl.DotOperandLayout(0, rgb_acc_layout, 2)
    joined_layout: gl.constexpr = gl.BlockedLayout(
        [1, 8, 1], [16, 1, 2], [num_warps, 1, 1], [1, 2, 0]
    )
    pixel_layout: gl.constexpr = gl.SliceLayout(1, joined_layout)
    pair_layout: gl.constexpr = gl.SliceLayout(1, acc_layout)
    channel_layout: gl.constexpr = gl.SliceLayout(0, acc_layout)
    color = gl.arange(0, 8, gl.SliceLayout(0, gl.SliceLayout(2, joined_layout)))[None, :, None]
    image_index = gl.program_id(2)
    image = image_index.to(gl.int64)  # a batch may have more elements than int32 counts
    left, top = gl.program_id(0) * BLOCK_PAIRS, gl.program_id(1) * BLOCK_ROWS
    weight_block: gl.constexpr = weight_desc.block_type.shape
    x_block: gl.constexpr = x_desc.block_type.shape
    weight_smem = gl.allocate_shared_memory(
        gl.float16, [9] + weight_block, weight_desc.layout  # noqa: RUF005
    )  # fmt: skip
    x_smem = gl.allocate_shared_memory(
        gl.float16, [4 * NUM_STAGES] + x_block, x_desc.layout  # noqa: RUF005
    )  # fmt: skip
    barriers = gl.allocate_shared_memory(gl.int64, [NUM_STAGES + 1, 1], mbarrier.MBarrierLayout())
    for k in gl.static_range(NUM_STAGES + 1):
        mbarrier.init(barriers.index(k), count=1)
    fence_async_shared()
    gl.thread_barrier()
    weight_barrier = barriers.index(NUM_STAGES)
    mbarrier.expect(weight_barrier, 9 * weight_desc.block_type.nbytes)
    for k in gl.static_range(9):
        tma.async_copy_global_to_shared(
            weight_desc, [k, 0, 0], weight_barrier, weight_smem.index(k)
        )
    for k in gl.static_range(NUM_STAGES):
        _fetch_alternate_pixels(
            x_desc, x_smem, 4 * k, barriers.index(k), image_index, top - 1 + k, left
        )

    # dcoefs and bias wait in shared memory: the sums need the registers.
    table_layout: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    table_smem = gl.allocate_shared_memory(gl.float32, [2, CHANNELS], table_layout)
    channels = gl.arange(0, CHANNELS, flat_layout)
    table_smem.index(0).store(gl.load(dcoefs_ptr + image * dcoefs_row_stride + channels))
    table_smem.index(1).store(gl.load(bias_ptr + channels))
    # toRGB's filters times its style, for 8 columns, the fewest of a matmul.
    by_color_layout: gl.constexpr = gl.BlockedLayout([1, 1], [1, 32], [num_warps, 1], [1, 0])
    rgb_weight_layout: gl.constexpr = gl.NVMMASharedLayout(64, 16, 2)
    rgb_weight_smem = gl.allocate_shared_memory(gl.float16, [8, CHANNELS], rgb_weight_layout)
    rgb_rows = gl.arange(0, 8, gl.SliceLayout(1, by_color_layout))[:, None]
    channels = gl.arange(0, CHANNELS, gl.SliceLayout(0, by_color_layout))[None, :]
    rgb_weight_ptrs = rgb_weight_ptr + rgb_rows * CHANNELS + channels
    rgb_weight = gl.load(rgb_weight_ptrs, mask=rgb_rows < 3, other=0.0)
    rgb_weight = rgb_weight * gl.load(rgb_style_ptr + image * styles_row_stride + channels)
    rgb_weight_smem.store(rgb_weight.to(gl.float16))
    fence_async_shared()
    gl.thread_barrier()

    even2 = gl.zeros((BLOCK_PAIRS, CHANNELS), gl.float32, acc_layout)
    odd2, even1, odd1 = even2, even2, even2
    even_cols = 2 * (left + gl.arange(0, BLOCK_PAIRS, pair_layout))
    cols = 2 * (left + gl.arange(0, BLOCK_PAIRS, gl.SliceLayout(1, pixel_layout)))[:, None]
    cols += gl.arange(0, 2, gl.SliceLayout(0, pixel_layout))[None, :]
    mbarrier.wait(weight_barrier, 0)
    for unrolled in range((BLOCK_ROWS + 2) // UNROLL):
        for k in gl.static_range(UNROLL):
            i = UNROLL * unrolled + k
            row = top + i - 2  # the row that is complete; row + 1 is multiplied
            row_mask = (i >= 2) & (row < HEIGHT)
            mask = (cols < WIDTH) & row_mask
            if HAS_NOISE:
                noise_ptrs = noise_ptr + row * WIDTH + even_cols
                noise_mask = (even_cols < WIDTH) & row_mask
                even_noise = gl.load(noise_ptrs, mask=noise_mask, other=0.0)
                odd_noise = gl.load(noise_ptrs + 1, mask=noise_mask, other=0.0)
            skip0 = _load_skip(skip_ptr, image, 0, row, cols, mask, HEIGHT, WIDTH)
            skip1 = _load_skip(skip_ptr, image, 1, row, cols, mask, HEIGHT, WIDTH)
            skip2 = _load_skip(skip_ptr, image, 2, row, cols, mask, HEIGHT, WIDTH)
            barrier = barriers.index(k % NUM_STAGES)
            mbarrier.wait(barrier, (i // NUM_STAGES) & 1)
            even, odd, even2, odd2, even1, odd1 = _multiply_row(
                x_smem, 4 * (k % NUM_STAGES), weight_smem, even2, odd2, even1, odd1
            )
            gl.thread_barrier()  # all warps have read the row
            if i + NUM_STAGES < BLOCK_ROWS + 2:
                next_row = top - 1 + i + NUM_STAGES
                _fetch_alternate_pixels(
                    x_desc, x_smem, 4 * (k % NUM_STAGES), barrier, image_index, next_row, left
                )
            dcoef = table_smem.index(0).load(channel_layout)
            bias = table_smem.index(1).load(channel_layout)
            even = even * dcoef[None, :] + bias[None, :]
            odd = odd * dcoef[None, :] + bias[None, :]
            if HAS_NOISE:
                even = even + even_noise.to(gl.float32)[:, None]
                odd = odd + odd_noise.to(gl.float32)[:, None]
            even, odd = gl.maximum(even, even * SLOPE), gl.maximum(odd, odd * SLOPE)
            zero = gl.zeros((BLOCK_PAIRS, 8), gl.float32, rgb_acc_layout)
            a = gl.convert_layout(even.to(gl.float16), a_layout)
            even = warpgroup_mma(a, rgb_weight_smem.permute((1, 0)), zero, is_async=True)
            a = gl.convert_layout(odd.to(gl.float16), a_layout)
            odd = warpgroup_mma(a, rgb_weight_smem.permute((1, 0)), zero, is_async=True)
            even, odd = warpgroup_mma_wait(0, deps=(even, odd))
            rgb = gl.convert_layout(gl.join(even, odd), joined_layout)
            red = gl.sum(gl.where(color == 0, rgb, 0.0), 1)
            green = gl.sum(gl.where(color == 1, rgb, 0.0), 1)
            blue = gl.sum(gl.where(color == 2, rgb, 0.0), 1)
            _store_color(
                red, skip0, rgb_bias_ptr, 0, rgb_ptr, image, row, cols, mask, HEIGHT, WIDTH
            )  # fmt: skip
            _store_color(
                green, skip1, rgb_bias_ptr, 1, rgb_ptr, image, row, cols, mask, HEIGHT, WIDTH
            )  # fmt: skip
            _store_color(
                blue, skip2, rgb_bias_ptr, 2, rgb_ptr, image, row, cols, mask, HEIGHT, WIDTH
            )  # fmt: skip


def convolve_to_rgb(
    x: Tensor,
    filters: Tensor,
    epilogue: EpilogueParams,
    to_rgb: ToRGBParams,
    dcoefs: Tensor,
    styles: Tensor,
    skip: Tensor,
    image_dtype: torch.dtype,
) -> Tensor:
    """Run the last 3x3 convolution, its epilogue and toRGB.

    Args:
        x: features times the style, (N, H, W, 32) float16.
        filters: those of `pack_last_filters`, (9, 32, 32) float16.
        epilogue, to_rgb, dcoefs, styles, skip, image_dtype: see `epilogue.apply_epilogue_`.

    Returns:
        RGB, see `epilogue.apply_epilogue_`.
    """
    n, height, width, n_channels = x.shape
    shape = (n, height, width, 3) if image_dtype == torch.uint8 else (n, 3, height, width)
    rgb = torch.empty(shape, dtype=image_dtype, device=x.device)
    x_layout, weight_layout = (gl.NVMMASharedLayout(64, 16, rank) for rank in (5, 3))
    pairs = x.view(n, height, width // 2, 2, n_channels)
    block_rows = BLOCK_ROWS if n >= LARGE_BATCH else SMALL_BATCH_BLOCK_ROWS
    grid = triton.cdiv(width // 2, BLOCK_PAIRS), triton.cdiv(height, block_rows), n
    _convolve_to_rgb_kernel[grid](
        TensorDescriptor.from_tensor(pairs, [1, 1, BLOCK_PAIRS, 1, n_channels], x_layout),
        TensorDescriptor.from_tensor(filters, [1, *filters.shape[1:]], weight_layout),
        dcoefs[:, epilogue.dcoef_start :], epilogue.noise, epilogue.bias,
        to_rgb.weight, to_rgb.bias, styles[:, to_rgb.style_start :], skip, rgb,
        styles.stride(0), dcoefs.stride(0), height, width, n_channels,
        SLOPE=LEAKY_RELU_SLOPE,
        BLOCK_PAIRS=BLOCK_PAIRS, BLOCK_ROWS=block_rows, NUM_STAGES=NUM_STAGES, UNROLL=UNROLL,
        HAS_NOISE=epilogue.noise is not None, num_warps=NUM_WARPS,
    )  # fmt: skip
    return rgb


def pack_last_filters(weight: Tensor) -> Tensor:
    """Pack filters (out, in, 3, 3) for `convolve_to_rgb`: (9, in, out), by row and column."""
    out_channels, in_channels = weight.shape[:2]
    return weight.permute(2, 3, 1, 0).reshape(9, in_channels, out_channels).contiguous()
