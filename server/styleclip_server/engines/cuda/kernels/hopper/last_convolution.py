"""StyleGAN2's last convolution with all that follows it, up to the picture.

Its sums of products stay in registers, and toRGB's sums are products of matrices, too.
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

from styleclip_server.engines.cuda.kernels.stylegan2 import SLOPE, Finish, ToRGB

PAIRS = 64  # of neighbouring pixels that a program computes at once
STAGES = 2  # lines of pixels that are held or on their way
UNROLL = 4  # rows
ROWS, FEW_ROWS = 66, 34  # of pixels that a program computes, and where a batch is small
MANY = 4  # pictures
WARPS = 4


@gluon.jit
def _fetch(x, lines, first: gl.constexpr, barrier, n, y, left):
    """Begins to copy every second pixel of line `y`: from pixel 2 * `left` - 1 on, and from
    each of the next three; zeros beyond the picture."""
    mbarrier.expect(barrier, 4 * x.block_type.nbytes)
    for p in gl.static_range(4):
        place = lines.index(first + p)
        at = [n, y, left + (p + 1) // 2 - 1, (p + 1) % 2, 0]
        tma.async_copy_global_to_shared(x, at, barrier, place)


@gluon.jit
def _multiply(lines, first: gl.constexpr, taps, e2, o2, e1, o1):
    """Adds what a line gives to the even and odd pixels of the rows above (by the filters'
    row 2) and at it (row 1), and begins the row below."""
    layout: gl.constexpr = e2.type.layout
    of_a: gl.constexpr = gl.DotOperandLayout(0, layout, 2)
    pairs: gl.constexpr = e2.shape[0]
    C: gl.constexpr = e2.shape[1]
    e0 = gl.zeros((pairs, C), gl.float32, layout)
    o0 = gl.zeros((pairs, C), gl.float32, layout)
    for p in gl.static_range(4):
        a = lines.index(first + p).reshape((pairs, C)).load(of_a)
        if p < 3:
            e0 = warpgroup_mma(a, taps.index(p).reshape((C, C)), e0, is_async=True)
            e1 = warpgroup_mma(a, taps.index(3 + p).reshape((C, C)), e1, is_async=True)
            e2 = warpgroup_mma(a, taps.index(6 + p).reshape((C, C)), e2, is_async=True)
        if p > 0:
            o0 = warpgroup_mma(a, taps.index(p - 1).reshape((C, C)), o0, is_async=True)
            o1 = warpgroup_mma(a, taps.index(2 + p).reshape((C, C)), o1, is_async=True)
            o2 = warpgroup_mma(a, taps.index(5 + p).reshape((C, C)), o2, is_async=True)
    return warpgroup_mma_wait(0, deps=(e2, o2, e1, o1, e0, o0))


@gluon.jit
def _skip(skip, n, j: gl.constexpr, y, x, inside, H: gl.constexpr, W: gl.constexpr):
    """The four pixels that `stylegan2_kernels._skip` weighs, read before they are needed."""
    near_y, near_x = y // 2, x // 2
    far_y, far_x = near_y - 1 + 2 * (y % 2), near_x - 1 + 2 * (x % 2)
    plane = skip + (n * 3 + j) * ((H // 2) * (W // 2))
    far_y_in = inside & (far_y >= 0) & (far_y < H // 2)
    far_x_in = (far_x >= 0) & (far_x < W // 2)
    a = gl.load(plane + near_y * (W // 2) + near_x, inside, 0.0)
    b = gl.load(plane + near_y * (W // 2) + far_x, inside & far_x_in, 0.0)
    c = gl.load(plane + far_y * (W // 2) + near_x, far_y_in, 0.0)
    d = gl.load(plane + far_y * (W // 2) + far_x, far_y_in & far_x_in, 0.0)
    return a, b, c, d


@gluon.jit
def _store(
    colour, four, bias, j: gl.constexpr, rgb, n, row, pixel, inside,
    H: gl.constexpr, W: gl.constexpr,
):  # fmt: skip
    a, b, c, d = four
    value = colour + gl.load(bias + j) + (0.5625 * a + 0.1875 * (b + c) + 0.0625 * d)
    if rgb.dtype.element_ty == gl.uint8:
        value = (gl.minimum(gl.maximum(value, -1.0), 1.0) + 1.0) * 127.5
        value = (value + 8388608.0) - 8388608.0  # half to even, as in `stylegan2_kernels`
        gl.store(rgb + (n * H * W + row * W + pixel) * 3 + j, value.to(gl.uint8), inside)
    else:
        if rgb.dtype.element_ty != gl.float32:
            value = gl.minimum(gl.maximum(value, -1.0), 1.0)
        at = rgb + (n * 3 + j) * (H * W) + row * W + pixel
        gl.store(at, value.to(rgb.dtype.element_ty), inside)


@gluon.jit
def _convolve_to_rgb(
    x, filters, factor, noise, bias, rgb_weight, rgb_bias, rgb_style, skip, rgb,
    S, TOTAL, H: gl.constexpr, W: gl.constexpr, C: gl.constexpr, PAIRS: gl.constexpr,
    ROWS: gl.constexpr, STAGES: gl.constexpr, NOISE: gl.constexpr, SLOPE: gl.constexpr,
    UNROLL: gl.constexpr, num_warps: gl.constexpr,
):  # fmt: skip
    of_sums: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[num_warps, 1], instr_shape=[16, C, 16]
    )
    flat: gl.constexpr = gl.BlockedLayout([1], [32], [num_warps], [0])
    of_colours: gl.constexpr = gl.NVMMADistributedLayout(
        version=[3, 0], warps_per_cta=[num_warps, 1], instr_shape=[16, 8, 16]
    )
    of_a: gl.constexpr = gl.DotOperandLayout(0, of_colours, 2)
    of_mixed: gl.constexpr = gl.BlockedLayout([1, 8, 1], [16, 1, 2], [num_warps, 1, 1], [1, 2, 0])
    of_pixels: gl.constexpr = gl.SliceLayout(1, of_mixed)
    of_pairs: gl.constexpr = gl.SliceLayout(1, of_sums)
    of_channels: gl.constexpr = gl.SliceLayout(0, of_sums)
    number = gl.arange(0, 8, gl.SliceLayout(0, gl.SliceLayout(2, of_mixed)))[None, :, None]
    picture = gl.program_id(2)
    n = picture.to(gl.int64)
    left, top = gl.program_id(0) * PAIRS, gl.program_id(1) * ROWS
    tap: gl.constexpr = filters.block_type.shape
    line: gl.constexpr = x.block_type.shape
    taps = gl.allocate_shared_memory(gl.float16, [9] + tap, filters.layout)  # noqa: RUF005
    lines = gl.allocate_shared_memory(gl.float16, [4 * STAGES] + line, x.layout)  # noqa: RUF005
    barriers = gl.allocate_shared_memory(gl.int64, [STAGES + 1, 1], mbarrier.MBarrierLayout())
    for k in gl.static_range(STAGES + 1):
        mbarrier.init(barriers.index(k), count=1)
    fence_async_shared()
    gl.thread_barrier()
    mbarrier.expect(barriers.index(STAGES), 9 * filters.block_type.nbytes)
    for k in gl.static_range(9):
        tma.async_copy_global_to_shared(filters, [k, 0, 0], barriers.index(STAGES), taps.index(k))
    for k in gl.static_range(STAGES):
        _fetch(x, lines, 4 * k, barriers.index(k), picture, top - 1 + k, left)

    # Factor and bias, whose registers the sums need.
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    table = gl.allocate_shared_memory(gl.float32, [2, C], plain)
    channel = gl.arange(0, C, flat)
    table.index(0).store(gl.load(factor + n * TOTAL + channel))
    table.index(1).store(gl.load(bias + channel))
    # toRGB's filters times its style; a product has 8 columns at least.
    by_colours: gl.constexpr = gl.BlockedLayout([1, 1], [1, 32], [num_warps, 1], [1, 0])
    rgb_layout: gl.constexpr = gl.NVMMASharedLayout(64, 16, 2)
    to_colours = gl.allocate_shared_memory(gl.float16, [8, C], rgb_layout)
    colour = gl.arange(0, 8, gl.SliceLayout(1, by_colours))[:, None]
    channel = gl.arange(0, C, gl.SliceLayout(0, by_colours))[None, :]
    weights = gl.load(rgb_weight + colour * C + channel, colour < 3, 0.0)
    weights = weights * gl.load(rgb_style + n * S + channel)
    to_colours.store(weights.to(gl.float16))
    fence_async_shared()
    gl.thread_barrier()

    e2 = gl.zeros((PAIRS, C), gl.float32, of_sums)
    o2, e1, o1 = e2, e2, e2
    column = 2 * (left + gl.arange(0, PAIRS, of_pairs))
    pixel = 2 * (left + gl.arange(0, PAIRS, gl.SliceLayout(1, of_pixels)))[:, None]
    pixel += gl.arange(0, 2, gl.SliceLayout(0, of_pixels))[None, :]
    mbarrier.wait(barriers.index(STAGES), 0)
    for rows in range((ROWS + 2) // UNROLL):
        for k in gl.static_range(UNROLL):
            i = UNROLL * rows + k
            row = top + i - 2
            live = (i >= 2) & (row < H)
            inside = (pixel < W) & live
            if NOISE:
                added = noise + row * W + column
                added0 = gl.load(added, (column < W) & live, 0.0)
                added1 = gl.load(added + 1, (column < W) & live, 0.0)
            skip0 = _skip(skip, n, 0, row, pixel, inside, H, W)
            skip1 = _skip(skip, n, 1, row, pixel, inside, H, W)
            skip2 = _skip(skip, n, 2, row, pixel, inside, H, W)
            barrier = barriers.index(k % STAGES)
            mbarrier.wait(barrier, (i // STAGES) & 1)
            even, odd, e2, o2, e1, o1 = _multiply(lines, 4 * (k % STAGES), taps, e2, o2, e1, o1)
            gl.thread_barrier()  # all have read the line
            if i + STAGES < ROWS + 2:
                _fetch(x, lines, 4 * (k % STAGES), barrier, picture, top - 1 + i + STAGES, left)
            scale, base = table.index(0).load(of_channels), table.index(1).load(of_channels)
            even = even * scale[None, :] + base[None, :]
            odd = odd * scale[None, :] + base[None, :]
            if NOISE:
                even = even + added0.to(gl.float32)[:, None]
                odd = odd + added1.to(gl.float32)[:, None]
            even, odd = gl.maximum(even, even * SLOPE), gl.maximum(odd, odd * SLOPE)
            zero = gl.zeros((PAIRS, 8), gl.float32, of_colours)
            a = gl.convert_layout(even.to(gl.float16), of_a)
            even = warpgroup_mma(a, to_colours.permute((1, 0)), zero, is_async=True)
            a = gl.convert_layout(odd.to(gl.float16), of_a)
            odd = warpgroup_mma(a, to_colours.permute((1, 0)), zero, is_async=True)
            even, odd = warpgroup_mma_wait(0, deps=(even, odd))
            mixed = gl.convert_layout(gl.join(even, odd), of_mixed)
            red = gl.sum(gl.where(number == 0, mixed, 0.0), 1)
            green = gl.sum(gl.where(number == 1, mixed, 0.0), 1)
            blue = gl.sum(gl.where(number == 2, mixed, 0.0), 1)
            _store(red, skip0, rgb_bias, 0, rgb, n, row, pixel, inside, H, W)
            _store(green, skip1, rgb_bias, 1, rgb, n, row, pixel, inside, H, W)
            _store(blue, skip2, rgb_bias, 2, rgb, n, row, pixel, inside, H, W)


def taps_of(weight: Tensor) -> Tensor:
    """Filters (out, in, 3, 3) as `convolve_to_rgb` takes them, (9, in, out)."""
    out, channels = weight.shape[:2]
    return weight.permute(2, 3, 1, 0).reshape(9, channels, out).contiguous()


def convolve_to_rgb(
    x: Tensor,
    taps: Tensor,
    layer: Finish,
    factors: Tensor,
    to_rgb: ToRGB,
    styles: Tensor,
    skip: Tensor,
    picture: torch.dtype,
) -> Tensor:
    """The last layer: 3x3 convolution, demodulation, noise, bias, leaky ReLU, toRGB and the skip.

    Args:
        x: (N, H, W, 32) float16, times the style.
        taps: of `taps_of`, float16.
        layer, factors, to_rgb, styles, skip, picture: as `stylegan2_kernels.finish` takes them.

    Returns:
        The picture, as `stylegan2_kernels.finish` returns it.
    """
    n, height, width, channels = x.shape
    shape = (n, height, width, 3) if picture == torch.uint8 else (n, 3, height, width)
    rgb = torch.empty(shape, dtype=picture, device=x.device)
    swizzled = (gl.NVMMASharedLayout(64, 16, rank) for rank in (5, 3))
    pairs = x.view(n, height, width // 2, 2, channels)
    rows = ROWS if n >= MANY else FEW_ROWS
    grid = triton.cdiv(width // 2, PAIRS), triton.cdiv(height, rows), n
    _convolve_to_rgb[grid](
        TensorDescriptor.from_tensor(pairs, [1, 1, PAIRS, 1, channels], next(swizzled)),
        TensorDescriptor.from_tensor(taps, [1, *taps.shape[1:]], next(swizzled)),
        factors[:, layer.factor :], layer.noise, layer.bias,
        to_rgb.weight, to_rgb.bias, styles[:, to_rgb.style :], skip, rgb,
        styles.stride(0), factors.stride(0), height, width, channels, PAIRS, rows, STAGES,
        layer.noise is not None, SLOPE.value, UNROLL, num_warps=WARPS,
    )  # fmt: skip
    return rgb
