"""StyleGAN2's last up-sampling convolution with the blur and all that follows it.

Along a row the binomial filter is folded into the filters, twice the least arithmetic; up and down
it is applied to the sums of products, in registers. The convolution's result is never stored.
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

from styleclip_server.engines.cuda.kernels.stylegan2 import LARGEST, SLOPE, Finish

INPUTS, OUTPUTS = 64, 32  # channels of the layer
PIXELS = 64  # of a line of the smaller picture that a program makes large
ROWS, FEW_ROWS = 64, 16  # lines of a program, and where a batch is small
MANY = 4  # pictures
WARPS = 4


@gluon.jit
def _fetch(x, lines, barrier, n, y, left):
    """Begins to copy pixels of line `y` from `left` - 1 on, and from each of the next two; zeros
    beyond the picture."""
    mbarrier.expect(barrier, 3 * x.block_type.nbytes)
    for t in gl.static_range(3):
        tma.async_copy_global_to_shared(x, [n, y, left - 1 + t, 0], barrier, lines.index(t))


@gluon.jit
def _finished(
    v, table, noise, row, x, live, layout: gl.constexpr, W: gl.constexpr, NOISE: gl.constexpr,
    SLOPE: gl.constexpr, LARGEST: gl.constexpr,
):  # fmt: skip
    """Demodulation, noise, bias, leaky ReLU and the next style, as in `stylegan2_kernels._finish`,
    of pixels 2x and 2x + 1 of a row of the larger picture; W is the smaller one's."""
    of_columns: gl.constexpr = gl.SliceLayout(0, layout)
    factor, bias = table.index(0).load(of_columns), table.index(1).load(of_columns)
    shift = bias[None, :]
    if NOISE:
        at = noise + row * (2 * W) + 2 * x
        odd = (gl.arange(0, v.shape[1], of_columns) >= v.shape[1] // 2)[None, :]
        added = gl.where(odd, gl.load(at + 1, live, 0.0)[:, None], gl.load(at, live, 0.0)[:, None])
        shift = added + shift
    v = v * factor[None, :] + shift
    largest = gl.full(v.shape, LARGEST, v.dtype, layout)
    v = gl.minimum(gl.maximum(gl.maximum(v, v * SLOPE), -largest), largest)
    return v * table.index(2).load(of_columns)[None, :]


@gluon.jit
def _up_convolve(
    x, filters, factor, noise, bias, style, out,
    S, TOTAL, H: gl.constexpr, W: gl.constexpr, K: gl.constexpr, C: gl.constexpr,
    PIXELS: gl.constexpr, ROWS: gl.constexpr, NOISE: gl.constexpr, SLOPE: gl.constexpr,
    LARGEST: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    # Columns of a product are the channels of the even pixel of the larger picture, then of the
    # odd one.
    WIDE: gl.constexpr = 2 * C
    of_sums: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[num_warps, 1], instr_shape=[16, WIDE, 16]
    )
    of_a: gl.constexpr = gl.DotOperandLayout(0, of_sums, 2)
    flat: gl.constexpr = gl.BlockedLayout([1], [32], [num_warps], [0])
    picture = gl.program_id(2)
    n = picture.to(gl.int64)
    left, top = gl.program_id(0) * PIXELS, gl.program_id(1) * ROWS
    tap: gl.constexpr = filters.block_type.shape
    line: gl.constexpr = x.block_type.shape
    made: gl.constexpr = out.block_type.shape
    taps = gl.allocate_shared_memory(gl.float16, [9] + tap, filters.layout)  # noqa: RUF005
    lines = gl.allocate_shared_memory(gl.float16, [3] + line, x.layout)  # noqa: RUF005
    leaving = gl.allocate_shared_memory(gl.float16, [2] + made, out.layout)  # noqa: RUF005
    barriers = gl.allocate_shared_memory(gl.int64, [2, 1], mbarrier.MBarrierLayout())
    for k in gl.static_range(2):
        mbarrier.init(barriers.index(k), count=1)
    fence_async_shared()
    gl.thread_barrier()
    mbarrier.expect(barriers.index(1), 9 * filters.block_type.nbytes)
    for k in gl.static_range(9):
        tma.async_copy_global_to_shared(filters, [k, 0, 0], barriers.index(1), taps.index(k))
    barrier = barriers.index(0)
    _fetch(x, lines, barrier, picture, top - 1, left)

    # Factor, bias and style, whose registers the sums need.
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    table = gl.allocate_shared_memory(gl.float16, [3, WIDE], plain)
    channel = gl.arange(0, WIDE, flat) % C
    factors = gl.minimum(gl.load(factor + n * TOTAL + channel), LARGEST)
    table.index(0).store(factors.to(gl.float16))
    table.index(1).store(gl.load(bias + channel).to(gl.float16))
    table.index(2).store(gl.load(style + n * S + channel).to(gl.float16))
    gl.thread_barrier()

    column = left + gl.arange(0, PIXELS, gl.SliceLayout(1, of_sums))
    zero = gl.zeros((PIXELS, WIDE), gl.float32, of_sums)
    even = zero
    # What earlier lines give to the next two rows of the larger picture, and to the one after.
    upper0 = zero.to(gl.float16)
    lower0, upper1 = upper0, upper0
    mbarrier.wait(barriers.index(1), 0)
    for i in range(ROWS + 2):
        y = top + i - 2  # the line that is made large; line y + 1 is read
        mbarrier.wait(barrier, i & 1)
        a0 = lines.index(0).reshape((PIXELS, K)).load(of_a)
        a1 = lines.index(1).reshape((PIXELS, K)).load(of_a)
        a2 = lines.index(2).reshape((PIXELS, K)).load(of_a)
        tma.store_wait(0)
        gl.thread_barrier()  # all have read the line, and the last rows have left
        if i + 1 < ROWS + 2:
            _fetch(x, lines, barrier, picture, top + i, left)
        # Rows 2y + 2 and 2y + 3 of the transposed convolution, and what the line gives to 2y + 4.
        odd, next_even = zero, zero
        for t in gl.static_range(3):
            a = a0 if t == 0 else (a1 if t == 1 else a2)
            t0 = taps.index(t).reshape((K, WIDE))
            t1 = taps.index(3 + t).reshape((K, WIDE))
            t2 = taps.index(6 + t).reshape((K, WIDE))
            even = warpgroup_mma(a, t0, even, is_async=True)
            odd = warpgroup_mma(a, t1, odd, use_acc=t > 0, is_async=True)
            next_even = warpgroup_mma(a, t2, next_even, use_acc=t > 0, is_async=True)
        even, odd, next_even = warpgroup_mma_wait(0, deps=(even, odd, next_even))
        # With r(j) the rows of the transposed convolution, row 2y of the larger picture is
        # (r(2y - 1) + 3 r(2y) + 3 r(2y + 1) + r(2y + 2)) / 4, row 2y + 1 the same one further.
        e, o = even.to(gl.float16), odd.to(gl.float16)
        even = next_even
        upper = upper0 + e * 0.25
        lower = lower0 + e * 0.75 + o * 0.25
        upper0 = upper1 + (e + o) * 0.75
        lower0 = e * 0.25 + o * 0.75
        upper1 = o * 0.25
        live = (column < W) & (i >= 2) & (y < H)
        upper = _finished(
            upper, table, noise, 2 * y, column, live, of_sums, W, NOISE, SLOPE, LARGEST
        )
        lower = _finished(
            lower, table, noise, 2 * y + 1, column, live, of_sums, W, NOISE, SLOPE, LARGEST
        )
        leaving.index(0).reshape((PIXELS, WIDE)).store(upper)
        leaving.index(1).reshape((PIXELS, WIDE)).store(lower)
        fence_async_shared()
        gl.thread_barrier()
        if i >= 2:
            tma.async_copy_shared_to_global(out, [picture, 2 * y, left, 0], leaving.index(0))
            tma.async_copy_shared_to_global(out, [picture, 2 * y + 1, left, 0], leaving.index(1))
    tma.store_wait(0)


def taps_of(weight: Tensor) -> Tensor:
    """The transposed convolution's filters (out, in, 3, 3) as `up_convolve` takes them, (9, in, 2 *
    out): the binomial filter applied along a row.

    Its columns 2j see pixel j by tap 0 and j - 1 by tap 2, its columns 2j + 1 pixel j by tap 1.
    Pixel 2j of the larger picture weighs columns 2j - 1 to 2j + 2 by 1, 3, 3 and 1 quarters, pixel
    2j + 1 the same one further; so both see pixels j - 1, j and j + 1, for each row of taps.
    """
    t0, t1, t2 = weight.unbind(3)
    even = (t1 + 3 * t2) / 4, (3 * t0 + 3 * t1 + t2) / 4, t0 / 4
    odd = t2 / 4, (t0 + 3 * t1 + 3 * t2) / 4, (3 * t0 + t1) / 4
    both = torch.stack([torch.cat(each) for each in zip(even, odd, strict=True)])
    return both.permute(3, 0, 2, 1).reshape(9, weight.shape[1], -1).contiguous()


def up_convolve(x: Tensor, taps: Tensor, layer: Finish, factors: Tensor, scaled: Tensor) -> Tensor:
    """The last up-sampling convolution, binomial filter, demodulation, noise, bias, leaky ReLU and
    the next style.

    Args:
        x: (N, H, W, 64) float16, times the style.
        taps: of `taps_of`, float16.
        layer, factors, scaled: as `stylegan2_kernels.blur_and_finish` takes them.

    Returns:
        (N, 2H, 2W, 32) float16.
    """
    n, height, width, channels = x.shape
    wide = taps.shape[2]
    out = torch.empty(n, 2 * height, 2 * width, wide // 2, dtype=x.dtype, device=x.device)
    of_pixels, of_taps = (gl.NVMMASharedLayout(128, 16, rank) for rank in (4, 3))
    rows = ROWS if n >= MANY else FEW_ROWS
    grid = triton.cdiv(width, PIXELS), triton.cdiv(height, rows), n
    pairs = out.view(n, 2 * height, width, wide)
    _up_convolve[grid](
        TensorDescriptor.from_tensor(x, [1, 1, PIXELS, channels], of_pixels),
        TensorDescriptor.from_tensor(taps, [1, *taps.shape[1:]], of_taps),
        factors[:, layer.factor :], layer.noise, layer.bias, scaled,
        TensorDescriptor.from_tensor(pairs, [1, 1, PIXELS, wide], of_pixels),
        scaled.stride(0), factors.stride(0), height, width, channels, wide // 2, PIXELS, rows,
        layer.noise is not None, SLOPE.value, LARGEST.value, num_warps=WARPS,
    )  # fmt: skip
    return out
