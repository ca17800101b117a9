"""StyleGAN2's last convolution and its epilogue, up to the image.

Features are (N, H, W, C), contiguous, float16. The convolution's sums stay in registers, and toRGB
is a matmul, too.
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

from styleclip_server.engines.cuda.kernels.stylegan2.epilogue import (
    SLOPE,
    EpilogueParams,
    ToRGBParams,
)

BLOCK_PAIRS = 64  # pairs of neighboring pixels that a program computes at once
NUM_STAGES = 2  # rows of pixels in shared memory or on their way there
UNROLL = 4  # rows
BLOCK_ROWS, FEW_BLOCK_ROWS = 66, 34  # rows per program, and in a small batch
LARGE_BATCH = 4
NUM_WARPS = 4


@gluon.jit
def _fetch_row(x_desc, x_smem, first: gl.constexpr, barrier, image, row, left):
    """Start copying every second pixel of a row: from pixel 2 * left - 1 on, and from each of
    the next three; zeros outside the image."""
    mbarrier.expect(barrier, 4 * x_desc.block_type.nbytes)
    for p in gl.static_range(4):
        offsets = [image, row, left + (p + 1) // 2 - 1, (p + 1) % 2, 0]
        tma.async_copy_global_to_shared(x_desc, offsets, barrier, x_smem.index(first + p))


@gluon.jit
def _multiply_row(x_smem, first: gl.constexpr, weight_smem, e2, o2, e1, o1):
    """Add a row's products to the even and odd pixels of the row above it (by row 2 of the
    filters) and of its own (row 1), and start the sums of the row below."""
    layout: gl.constexpr = e2.type.layout
    a_layout: gl.constexpr = gl.DotOperandLayout(0, layout, 2)
    num_pairs: gl.constexpr = e2.shape[0]
    num_channels: gl.constexpr = e2.shape[1]
    tap: gl.constexpr = (num_channels, num_channels)
    e0 = gl.zeros((num_pairs, num_channels), gl.float32, layout)
    o0 = gl.zeros((num_pairs, num_channels), gl.float32, layout)
    for p in gl.static_range(4):
        a = x_smem.index(first + p).reshape((num_pairs, num_channels)).load(a_layout)
        if p < 3:
            e0 = warpgroup_mma(a, weight_smem.index(p).reshape(tap), e0, is_async=True)
            e1 = warpgroup_mma(a, weight_smem.index(3 + p).reshape(tap), e1, is_async=True)
            e2 = warpgroup_mma(a, weight_smem.index(6 + p).reshape(tap), e2, is_async=True)
        if p > 0:
            o0 = warpgroup_mma(a, weight_smem.index(p - 1).reshape(tap), o0, is_async=True)
            o1 = warpgroup_mma(a, weight_smem.index(2 + p).reshape(tap), o1, is_async=True)
            o2 = warpgroup_mma(a, weight_smem.index(5 + p).reshape(tap), o2, is_async=True)
    return warpgroup_mma_wait(0, deps=(e2, o2, e1, o1, e0, o0))


@gluon.jit
def _load_skip(
    skip_ptr, image, color: gl.constexpr, row, col, mask,
    height: gl.constexpr, width: gl.constexpr,
):  # fmt: skip
    """The four pixels of `epilogue._upsample_skip`, loaded before they are needed."""
    near_row, near_col = row // 2, col // 2
    far_row, far_col = near_row - 1 + 2 * (row % 2), near_col - 1 + 2 * (col % 2)
    plane_ptr = skip_ptr + (image * 3 + color) * ((height // 2) * (width // 2))
    far_row_mask = mask & (far_row >= 0) & (far_row < height // 2)
    far_col_mask = (far_col >= 0) & (far_col < width // 2)
    a = gl.load(plane_ptr + near_row * (width // 2) + near_col, mask, 0.0)
    b = gl.load(plane_ptr + near_row * (width // 2) + far_col, mask & far_col_mask, 0.0)
    c = gl.load(plane_ptr + far_row * (width // 2) + near_col, far_row_mask, 0.0)
    d = gl.load(plane_ptr + far_row * (width // 2) + far_col, far_row_mask & far_col_mask, 0.0)
    return a, b, c, d


@gluon.jit
def _store_color(
    total, skip, rgb_bias_ptr, color: gl.constexpr, rgb_ptr, image, row, col, mask,
    height: gl.constexpr, width: gl.constexpr,
):  # fmt: skip
    """One color of `epilogue._store_rgb`: toRGB's sum, bias and upsampled skip."""
    a, b, c, d = skip
    value = total + gl.load(rgb_bias_ptr + color) + (0.5625 * a + 0.1875 * (b + c) + 0.0625 * d)
    if rgb_ptr.dtype.element_ty == gl.uint8:
        value = (gl.minimum(gl.maximum(value, -1.0), 1.0) + 1.0) * 127.5
        value = (value + 8388608.0) - 8388608.0  # rounds half to even
        rgb_ptrs = rgb_ptr + (image * height * width + row * width + col) * 3 + color
        gl.store(rgb_ptrs, value.to(gl.uint8), mask)
    else:
        if rgb_ptr.dtype.element_ty != gl.float32:
            value = gl.minimum(gl.maximum(value, -1.0), 1.0)
        rgb_ptrs = rgb_ptr + (image * 3 + color) * (height * width) + row * width + col
        gl.store(rgb_ptrs, value.to(rgb_ptr.dtype.element_ty), mask)


@gluon.jit
def _convolve_to_rgb_kernel(
    x_desc, weight_desc, dcoefs_ptr, noise_ptr, bias_ptr, rgb_weight_ptr, rgb_bias_ptr,
    rgb_style_ptr, skip_ptr, rgb_ptr, styles_row_stride, dcoefs_row_stride,
    height: gl.constexpr, width: gl.constexpr, num_channels: gl.constexpr,
    BLOCK_PAIRS: gl.constexpr, BLOCK_ROWS: gl.constexpr, NUM_STAGES: gl.constexpr,
    HAS_NOISE: gl.constexpr, SLOPE: gl.constexpr, UNROLL: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    """rgb of `epilogue._apply_epilogue_kernel` for weight ∗ x in place of x, not clamped.

    A program computes BLOCK_ROWS rows of 2 * BLOCK_PAIRS pixels, row after row: the even and the
    odd pixels are a matmul each, of (BLOCK_PAIRS, C) and (C, C) per tap."""
    acc_layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[num_warps, 1], instr_shape=[16, num_channels, 16]
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
        _fetch_row(x_desc, x_smem, 4 * k, barriers.index(k), image_index, top - 1 + k, left)

    # dcoefs and bias wait in shared memory: the sums need the registers.
    table_layout: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    table_smem = gl.allocate_shared_memory(gl.float32, [2, num_channels], table_layout)
    channels = gl.arange(0, num_channels, flat_layout)
    table_smem.index(0).store(gl.load(dcoefs_ptr + image * dcoefs_row_stride + channels))
    table_smem.index(1).store(gl.load(bias_ptr + channels))
    # toRGB's filters times its style, for 8 columns, the fewest of a matmul.
    by_color_layout: gl.constexpr = gl.BlockedLayout([1, 1], [1, 32], [num_warps, 1], [1, 0])
    rgb_weight_layout: gl.constexpr = gl.NVMMASharedLayout(64, 16, 2)
    rgb_weight_smem = gl.allocate_shared_memory(gl.float16, [8, num_channels], rgb_weight_layout)
    rgb_rows = gl.arange(0, 8, gl.SliceLayout(1, by_color_layout))[:, None]
    channels = gl.arange(0, num_channels, gl.SliceLayout(0, by_color_layout))[None, :]
    rgb_weight = gl.load(rgb_weight_ptr + rgb_rows * num_channels + channels, rgb_rows < 3, 0.0)
    rgb_weight = rgb_weight * gl.load(rgb_style_ptr + image * styles_row_stride + channels)
    rgb_weight_smem.store(rgb_weight.to(gl.float16))
    fence_async_shared()
    gl.thread_barrier()

    e2 = gl.zeros((BLOCK_PAIRS, num_channels), gl.float32, acc_layout)
    o2, e1, o1 = e2, e2, e2
    even_cols = 2 * (left + gl.arange(0, BLOCK_PAIRS, pair_layout))
    cols = 2 * (left + gl.arange(0, BLOCK_PAIRS, gl.SliceLayout(1, pixel_layout)))[:, None]
    cols += gl.arange(0, 2, gl.SliceLayout(0, pixel_layout))[None, :]
    mbarrier.wait(weight_barrier, 0)
    for unrolled in range((BLOCK_ROWS + 2) // UNROLL):
        for k in gl.static_range(UNROLL):
            i = UNROLL * unrolled + k
            row = top + i - 2  # the row that is complete; row + 1 is multiplied
            row_mask = (i >= 2) & (row < height)
            mask = (cols < width) & row_mask
            if HAS_NOISE:
                noise_ptrs = noise_ptr + row * width + even_cols
                noise_mask = (even_cols < width) & row_mask
                even_noise = gl.load(noise_ptrs, noise_mask, 0.0)
                odd_noise = gl.load(noise_ptrs + 1, noise_mask, 0.0)
            skip0 = _load_skip(skip_ptr, image, 0, row, cols, mask, height, width)
            skip1 = _load_skip(skip_ptr, image, 1, row, cols, mask, height, width)
            skip2 = _load_skip(skip_ptr, image, 2, row, cols, mask, height, width)
            barrier = barriers.index(k % NUM_STAGES)
            mbarrier.wait(barrier, (i // NUM_STAGES) & 1)
            even, odd, e2, o2, e1, o1 = _multiply_row(
                x_smem, 4 * (k % NUM_STAGES), weight_smem, e2, o2, e1, o1
            )
            gl.thread_barrier()  # all warps have read the row
            if i + NUM_STAGES < BLOCK_ROWS + 2:
                next_row = top - 1 + i + NUM_STAGES
                _fetch_row(
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
                red, skip0, rgb_bias_ptr, 0, rgb_ptr, image, row, cols, mask, height, width
            )  # fmt: skip
            _store_color(
                green, skip1, rgb_bias_ptr, 1, rgb_ptr, image, row, cols, mask, height, width
            )  # fmt: skip
            _store_color(
                blue, skip2, rgb_bias_ptr, 2, rgb_ptr, image, row, cols, mask, height, width
            )  # fmt: skip


def convolve_to_rgb(
    x: Tensor,
    taps: Tensor,
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
        taps: the filters of `arrange_taps`, float16.
        epilogue, to_rgb, dcoefs, styles, skip, image_dtype: as of `epilogue.apply_epilogue`.

    Returns:
        RGB, as of `epilogue.apply_epilogue`.
    """
    n, height, width, num_channels = x.shape
    shape = (n, height, width, 3) if image_dtype == torch.uint8 else (n, 3, height, width)
    rgb = torch.empty(shape, dtype=image_dtype, device=x.device)
    x_layout, weight_layout = (gl.NVMMASharedLayout(64, 16, rank) for rank in (5, 3))
    pairs = x.view(n, height, width // 2, 2, num_channels)
    block_rows = BLOCK_ROWS if n >= LARGE_BATCH else FEW_BLOCK_ROWS
    grid = triton.cdiv(width // 2, BLOCK_PAIRS), triton.cdiv(height, block_rows), n
    _convolve_to_rgb_kernel[grid](
        TensorDescriptor.from_tensor(pairs, [1, 1, BLOCK_PAIRS, 1, num_channels], x_layout),
        TensorDescriptor.from_tensor(taps, [1, *taps.shape[1:]], weight_layout),
        dcoefs[:, epilogue.dcoef_start :], epilogue.noise, epilogue.bias,
        to_rgb.weight, to_rgb.bias, styles[:, to_rgb.style_start :], skip, rgb,
        styles.stride(0), dcoefs.stride(0), height, width, num_channels,
        BLOCK_PAIRS=BLOCK_PAIRS, BLOCK_ROWS=block_rows, NUM_STAGES=NUM_STAGES,
        HAS_NOISE=epilogue.noise is not None, SLOPE=SLOPE.value, UNROLL=UNROLL,
        num_warps=NUM_WARPS,
    )  # fmt: skip
    return rgb


def arrange_taps(weight: Tensor) -> Tensor:
    """Filters (out, in, 3, 3) in the layout of `convolve_to_rgb`, (9, in, out)."""
    out_channels, in_channels = weight.shape[:2]
    return weight.permute(2, 3, 1, 0).reshape(9, in_channels, out_channels).contiguous()
