"""StyleGAN2's last upsampling convolution, with the resample filter and the epilogue.

Features are (N, H, W, C), contiguous, float16; height and width are those of the input. Along a row
the resample filter is folded into the convolution's filters, which doubles the arithmetic; along a
column it is applied to the sums in registers. The convolution's output is never stored.
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
    CONV_CLAMP,
    FAR,
    NEAR,
    EpilogueParams,
)

IN_CHANNELS, OUT_CHANNELS = 64, 32  # of the layer
BLOCK_COLS = 64  # input pixels of a row per program
BLOCK_ROWS, SMALL_BATCH_BLOCK_ROWS = 64, 16  # input rows per program
LARGE_BATCH = 4  # images
NUM_WARPS = 4


@gluon.jit
def _fetch_shifted_rows(x_desc, x_smem, barrier, image, row, left):
    """Start copying the pixels of a row from left - 1 on, from left on and from left + 1 on; zeros
    outside the image."""
    mbarrier.expect(barrier, 3 * x_desc.block_type.nbytes)
    for t in gl.static_range(3):
        offsets = [image, row, left - 1 + t, 0]
        tma.async_copy_global_to_shared(x_desc, offsets, barrier, x_smem.index(t))


@gluon.jit
def _epilogue_of_pairs(
    features, table_smem, noise_ptr, row, cols, mask, LAYOUT: gl.constexpr, WIDTH: gl.constexpr,
    HAS_NOISE: gl.constexpr, SLOPE: gl.constexpr, CLAMP: gl.constexpr,
):  # fmt: skip
    """The formula of `epilogue._apply_epilogue_kernel` up to the next style, for pixels 2 * cols
    and 2 * cols + 1 of an output row: features (BLOCK_COLS, 2 * C) float16."""
    channel_layout: gl.constexpr = gl.SliceLayout(0, LAYOUT)
    dcoef = table_smem.index(0).load(channel_layout)
    bias = table_smem.index(1).load(channel_layout)
    shift = bias[None, :]
    if HAS_NOISE:
        noise_ptrs = noise_ptr + row * (2 * WIDTH) + 2 * cols
        odd = (gl.arange(0, features.shape[1], channel_layout) >= features.shape[1] // 2)[None, :]
        odd_noise = gl.load(noise_ptrs + 1, mask=mask, other=0.0)[:, None]
        even_noise = gl.load(noise_ptrs, mask=mask, other=0.0)[:, None]
        shift = gl.where(odd, odd_noise, even_noise) + shift
    features = features * dcoef[None, :] + shift
    clamp = gl.full(features.shape, CLAMP, features.dtype, LAYOUT)
    features = gl.maximum(features, features * SLOPE)
    features = gl.minimum(gl.maximum(features, -clamp), clamp)
    return features * table_smem.index(2).load(channel_layout)[None, :]


@gluon.jit
def _upsample_convolve_kernel(
    x_desc, weight_desc, dcoefs_ptr, noise_ptr, bias_ptr, next_style_ptr, out_desc,
    styles_row_stride, dcoefs_row_stride,
    HEIGHT: gl.constexpr, WIDTH: gl.constexpr,
    IN_CHANNELS: gl.constexpr, OUT_CHANNELS: gl.constexpr,
    SLOPE: gl.constexpr, CLAMP: gl.constexpr,
    BLOCK_COLS: gl.constexpr, BLOCK_ROWS: gl.constexpr, HAS_NOISE: gl.constexpr,
    num_warps: gl.constexpr,
):  # fmt: skip
    """out = clamp(leaky_relu((F ∗ t) * dcoef + noise + bias)) * next_style, with F the resample
    filter and t the stride-2 transposed convolution of x.

    A program computes 2 * BLOCK_ROWS rows of 2 * BLOCK_COLS pixels, from input row to input row:
    matmuls of (BLOCK_COLS, IN_CHANNELS) and (IN_CHANNELS, COLS) per tap."""
    # Columns of a matmul: the channels of the even output pixel, then of the odd one.
    COLS: gl.constexpr = 2 * OUT_CHANNELS
    acc_layout: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[num_warps, 1], instr_shape=[16, COLS, 16]
    )
    a_layout: gl.constexpr = gl.DotOperandLayout(0, acc_layout, 2)
    flat_layout: gl.constexpr = gl.BlockedLayout([1], [32], [num_warps], [0])
    image_index = gl.program_id(2)
    image = image_index.to(gl.int64)  # a batch may have more elements than int32 counts
    left, top = gl.program_id(0) * BLOCK_COLS, gl.program_id(1) * BLOCK_ROWS
    weight_block: gl.constexpr = weight_desc.block_type.shape
    x_block: gl.constexpr = x_desc.block_type.shape
    out_block: gl.constexpr = out_desc.block_type.shape
    weight_smem = gl.allocate_shared_memory(
        gl.float16, [9] + weight_block, weight_desc.layout  # noqa: RUF005
    )  # fmt: skip
    x_smem = gl.allocate_shared_memory(gl.float16, [3] + x_block, x_desc.layout)  # noqa: RUF005
    out_smem = gl.allocate_shared_memory(
        gl.float16, [2] + out_block, out_desc.layout  # noqa: RUF005
    )  # fmt: skip
    barriers = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for k in gl.static_range(2):
        mbarrier.init(barriers.index(k), count=1)
    fence_async_shared()
    gl.thread_barrier()
    x_barrier, weight_barrier = barriers.index(0), barriers.index(1)
    mbarrier.expect(weight_barrier, 9 * weight_desc.block_type.nbytes)
    for k in gl.static_range(9):
        tma.async_copy_global_to_shared(
            weight_desc, [k, 0, 0], weight_barrier, weight_smem.index(k)
        )
    _fetch_shifted_rows(x_desc, x_smem, x_barrier, image_index, top - 1, left)

    # dcoefs, bias and style wait in shared memory: the sums need the registers.
    table_layout: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    table_smem = gl.allocate_shared_memory(gl.float16, [3, COLS], table_layout)
    channels = gl.arange(0, COLS, flat_layout) % OUT_CHANNELS
    dcoef = gl.load(dcoefs_ptr + image * dcoefs_row_stride + channels)
    table_smem.index(0).store(gl.minimum(dcoef, CLAMP).to(gl.float16))
    table_smem.index(1).store(gl.load(bias_ptr + channels).to(gl.float16))
    next_style = gl.load(next_style_ptr + image * styles_row_stride + channels)
    table_smem.index(2).store(next_style.to(gl.float16))
    gl.thread_barrier()

    cols = left + gl.arange(0, BLOCK_COLS, gl.SliceLayout(1, acc_layout))
    zero = gl.zeros((BLOCK_COLS, COLS), gl.float32, acc_layout)
    even = zero
    # Contributions of earlier input rows to the next two output rows, and to the one after.
    upper0 = zero.to(gl.float16)
    lower0, upper1 = upper0, upper0
    mbarrier.wait(weight_barrier, 0)
    for i in range(BLOCK_ROWS + 2):
        row = top + i - 2  # the input row whose output is complete; row + 1 is multiplied
        mbarrier.wait(x_barrier, i & 1)
        a0 = x_smem.index(0).reshape((BLOCK_COLS, IN_CHANNELS)).load(a_layout)
        a1 = x_smem.index(1).reshape((BLOCK_COLS, IN_CHANNELS)).load(a_layout)
        a2 = x_smem.index(2).reshape((BLOCK_COLS, IN_CHANNELS)).load(a_layout)
        tma.store_wait(0)
        gl.thread_barrier()  # all warps have read the row, and the last output rows are stored
        if i + 1 < BLOCK_ROWS + 2:
            _fetch_shifted_rows(x_desc, x_smem, x_barrier, image_index, top + i, left)
        # Rows 2 * row + 2 and 2 * row + 3 of the transposed convolution, and a part of the next.
        odd, next_even = zero, zero
        for t in gl.static_range(3):
            a = a0 if t == 0 else (a1 if t == 1 else a2)
            tap0 = weight_smem.index(t).reshape((IN_CHANNELS, COLS))
            tap1 = weight_smem.index(3 + t).reshape((IN_CHANNELS, COLS))
            tap2 = weight_smem.index(6 + t).reshape((IN_CHANNELS, COLS))
            even = warpgroup_mma(a, tap0, even, is_async=True)
            odd = warpgroup_mma(a, tap1, odd, use_acc=t > 0, is_async=True)
            next_even = warpgroup_mma(a, tap2, next_even, use_acc=t > 0, is_async=True)
        even, odd, next_even = warpgroup_mma_wait(0, deps=(even, odd, next_even))
        # With r(j) the rows of the transposed convolution, output row 2y is
        # (r(2y - 1) + 3 r(2y) + 3 r(2y + 1) + r(2y + 2)) / 4, and row 2y + 1 the same, one further.
        even_half, odd_half = even.to(gl.float16), odd.to(gl.float16)
        even = next_even
        upper = upper0 + even_half * FAR
        lower = lower0 + even_half * NEAR + odd_half * FAR
        upper0 = upper1 + (even_half + odd_half) * NEAR
        lower0 = even_half * FAR + odd_half * NEAR
        upper1 = odd_half * FAR
        mask = (cols < WIDTH) & (i >= 2) & (row < HEIGHT)
        upper = _epilogue_of_pairs(
            upper, table_smem, noise_ptr, 2 * row, cols, mask, acc_layout, WIDTH,
            HAS_NOISE, SLOPE, CLAMP,
        )  # fmt: skip
        lower = _epilogue_of_pairs(
            lower, table_smem, noise_ptr, 2 * row + 1, cols, mask, acc_layout, WIDTH,
            HAS_NOISE, SLOPE, CLAMP,
        )  # fmt: skip
        out_smem.index(0).reshape((BLOCK_COLS, COLS)).store(upper)
        out_smem.index(1).reshape((BLOCK_COLS, COLS)).store(lower)
        fence_async_shared()
        gl.thread_barrier()
        if i >= 2:
            tma.async_copy_shared_to_global(
                out_desc, [image_index, 2 * row, left, 0], out_smem.index(0)
            )
            tma.async_copy_shared_to_global(
                out_desc, [image_index, 2 * row + 1, left, 0], out_smem.index(1)
            )
    tma.store_wait(0)


def upsample_convolve(
    x: Tensor, filters: Tensor, epilogue: EpilogueParams, dcoefs: Tensor, next_style: Tensor
) -> Tensor:
    """Run the last upsampling convolution, resample filter and epilogue.

    Args:
        x: features times the style, (N, H, W, 64) float16.
        filters: those of `pack_up_filters`, (9, 64, 2 * 32) float16.
        epilogue, dcoefs, next_style: see `upsample.blur_and_apply_epilogue`.

    Returns:
        Features times the next style, (N, 2H, 2W, 32) float16.
    """
    n, height, width, in_channels = x.shape
    n_cols = filters.shape[2]
    out = torch.empty(n, 2 * height, 2 * width, n_cols // 2, dtype=x.dtype, device=x.device)
    pixel_layout, weight_layout = (gl.NVMMASharedLayout(128, 16, rank) for rank in (4, 3))
    block_rows = BLOCK_ROWS if n >= LARGE_BATCH else SMALL_BATCH_BLOCK_ROWS
    grid = triton.cdiv(width, BLOCK_COLS), triton.cdiv(height, block_rows), n
    pairs = out.view(n, 2 * height, width, n_cols)
    _upsample_convolve_kernel[grid](
        TensorDescriptor.from_tensor(x, [1, 1, BLOCK_COLS, in_channels], pixel_layout),
        TensorDescriptor.from_tensor(filters, [1, *filters.shape[1:]], weight_layout),
        dcoefs[:, epilogue.dcoef_start :], epilogue.noise, epilogue.bias, next_style,
        TensorDescriptor.from_tensor(pairs, [1, 1, BLOCK_COLS, n_cols], pixel_layout),
        next_style.stride(0), dcoefs.stride(0), height, width, in_channels, n_cols // 2,
        SLOPE=LEAKY_RELU_SLOPE, CLAMP=CONV_CLAMP,
        BLOCK_COLS=BLOCK_COLS, BLOCK_ROWS=block_rows, HAS_NOISE=epilogue.noise is not None,
        num_warps=NUM_WARPS,
    )  # fmt: skip
    return out


def pack_up_filters(weight: Tensor) -> Tensor:
    """Pack the filters of the transposed convolution for `upsample_convolve`.

    The resample filter is applied along a row.

    Column 2j of the transposed convolution sees pixel j by tap 0 and j - 1 by tap 2; column 2j + 1
    sees pixel j by tap 1. Output pixel 2j weighs columns 2j - 1 to 2j + 2 by 1, 3, 3 and 1
    quarters, pixel 2j + 1 the same, one further. So both see pixels j - 1, j and j + 1.

    Args:
        weight: (out, in, 3, 3).

    Returns:
        (9, in, 2 * out): by row of `weight` and input pixel; outputs of the even pixel in front.
    """
    t0, t1, t2 = weight.unbind(3)
    even = (t1 + 3 * t2) / 4, (3 * t0 + 3 * t1 + t2) / 4, t0 / 4
    odd = t2 / 4, (t0 + 3 * t1 + 3 * t2) / 4, (3 * t0 + t1) / 4
    both = torch.stack([torch.cat(pair) for pair in zip(even, odd, strict=True)])
    return both.permute(3, 0, 2, 1).reshape(9, weight.shape[1], -1).contiguous()
