"""StyleGAN2's last convolution with all that follows it, in one kernel for NVIDIA's Hopper.

cuDNN's convolution writes 67 MB for each picture of 1024 px, which `stylegan2_kernels.finish` reads
again only to sum them up to three colours. Here they stay in registers. Written in Gluon, Triton's
lower level, because Triton itself waits for each product of matrices before it begins the next.
Gluon may change with any release of Triton: where it, or the device, is not what this was written
for, `is_available` says so and the two kernels run.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from styleclip_server.gpu.stylegan2_kernels import SLOPE, Finish, ToRGB

try:
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
except ImportError:
    gluon = None

CHANNELS = 32  # of the layer; two neighbouring pixels are one row of a product
PAIRS = 64  # that a program computes at once
STAGES = 2  # lines of pixels that are held or on their way
ROWS, FEW_ROWS = 66, 34  # of pixels that a program computes, and where a batch is small
MANY = 4  # pictures
WARPS = 4


def is_available(device: torch.device) -> bool:
    """Whether `device` is a Hopper and Triton the release that the kernel was written for."""
    if gluon is None or device.type != "cuda" or not triton.__version__.startswith("3.6."):
        return False
    return torch.cuda.get_device_capability(device) == (9, 0)


if gluon is not None:

    @gluon.jit
    def _fetch(x, lines, first: gl.constexpr, barrier, n, y, left):
        """Begins to copy line `y`, once from pair `left` on and once from the next; zeros beyond
        the picture."""
        mbarrier.expect(barrier, 2 * x.block_type.nbytes)
        for shift in gl.static_range(2):
            place = lines.index(first + shift)
            tma.async_copy_global_to_shared(x, [n, y, left + shift, 0], barrier, place)

    @gluon.jit
    def _multiply(lines, first: gl.constexpr, taps, above, here, below):
        """Adds what a line gives to the rows above, at and below it, the last begun anew."""
        pairs: gl.constexpr = above.shape[0]
        wide: gl.constexpr = above.shape[1]
        for shift in gl.static_range(2):
            a = lines.index(first + shift).reshape((pairs, wide))
            t0 = taps.index(shift).reshape((wide, wide))
            t1 = taps.index(2 + shift).reshape((wide, wide))
            t2 = taps.index(4 + shift).reshape((wide, wide))
            above = warpgroup_mma(a, t2, above, is_async=True)
            here = warpgroup_mma(a, t1, here, is_async=True)
            below = warpgroup_mma(a, t0, below, use_acc=shift > 0, is_async=True)
        return warpgroup_mma_wait(0, deps=(above, here, below))

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
        num_warps: gl.constexpr,
    ):  # fmt: skip
        of_products: gl.constexpr = gl.NVMMADistributedLayout(
            version=[3, 0], warps_per_cta=[num_warps, 1], instr_shape=[16, 2 * C, 16]
        )
        flat: gl.constexpr = gl.BlockedLayout([1], [32], [num_warps], [0])
        plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
        picture = gl.program_id(2)
        n = picture.to(gl.int64)
        left, top = gl.program_id(0) * PAIRS, gl.program_id(1) * ROWS
        tap: gl.constexpr = filters.block_type.shape
        line: gl.constexpr = x.block_type.shape
        taps = gl.allocate_shared_memory(gl.float16, [6] + tap, filters.layout)  # noqa: RUF005
        lines = gl.allocate_shared_memory(gl.float16, [2 * STAGES] + line, x.layout)  # noqa: RUF005
        barriers = gl.allocate_shared_memory(gl.int64, [STAGES + 1, 1], mbarrier.MBarrierLayout())
        for k in gl.static_range(STAGES + 1):
            mbarrier.init(barriers.index(k), count=1)
        fence_async_shared()
        gl.thread_barrier()
        mbarrier.expect(barriers.index(STAGES), 6 * filters.block_type.nbytes)
        for k in gl.static_range(6):
            tma.async_copy_global_to_shared(
                filters, [k, 0, 0], barriers.index(STAGES), taps.index(k)
            )
        for k in gl.static_range(STAGES):
            _fetch(x, lines, 2 * k, barriers.index(k), picture, top - 1 + k, left)

        # Factor, bias and toRGB's filters, whose registers the sums need.
        table = gl.allocate_shared_memory(gl.float32, [5, C], plain)
        channel = gl.arange(0, C, flat)
        style = gl.load(rgb_style + n * S + channel)
        table.index(0).store(gl.load(factor + n * TOTAL + channel))
        table.index(1).store(gl.load(bias + channel))
        for j in gl.static_range(3):
            table.index(2 + j).store(style * gl.load(rgb_weight + j * C + channel))
        red = gl.allocate_shared_memory(gl.float32, [2 * PAIRS], plain)
        green = gl.allocate_shared_memory(gl.float32, [2 * PAIRS], plain)
        blue = gl.allocate_shared_memory(gl.float32, [2 * PAIRS], plain)

        # Three rows are summed up at a time. Their names go round in four, so that none has to be
        # copied into another.
        sum0 = gl.zeros((PAIRS, 2 * C), gl.float32, of_products)
        sum1, sum2, sum3 = sum0, sum0, sum0
        apart: gl.constexpr = gl.reshape(sum0, (PAIRS, 2, C)).type.layout
        of_pixels: gl.constexpr = gl.SliceLayout(2, apart)
        of_channels: gl.constexpr = gl.SliceLayout(0, gl.SliceLayout(1, apart))
        column = (left + gl.arange(0, PAIRS, gl.SliceLayout(1, of_pixels)))[:, None] * 2
        column += gl.arange(0, 2, gl.SliceLayout(0, of_pixels))[None, :]
        pixel = 2 * left + gl.arange(0, 2 * PAIRS, flat)
        mbarrier.wait(barriers.index(STAGES), 0)
        for four in range((ROWS + 2) // 4):
            for k in gl.static_range(4):
                i = 4 * four + k
                row = top + i - 2
                live = (i >= 2) & (row < H)
                inside = (pixel < W) & live
                if NOISE:
                    added = gl.load(noise + row * W + column, (column < W) & live, 0.0)
                skip0 = _skip(skip, n, 0, row, pixel, inside, H, W)
                skip1 = _skip(skip, n, 1, row, pixel, inside, H, W)
                skip2 = _skip(skip, n, 2, row, pixel, inside, H, W)
                barrier = barriers.index(k % STAGES)
                mbarrier.wait(barrier, (i // STAGES) & 1)
                if k == 0:
                    sum0, sum1, sum2 = _multiply(lines, 2 * (k % STAGES), taps, sum0, sum1, sum2)
                    v = sum0
                elif k == 1:
                    sum1, sum2, sum3 = _multiply(lines, 2 * (k % STAGES), taps, sum1, sum2, sum3)
                    v = sum1
                elif k == 2:
                    sum2, sum3, sum0 = _multiply(lines, 2 * (k % STAGES), taps, sum2, sum3, sum0)
                    v = sum2
                else:
                    sum3, sum0, sum1 = _multiply(lines, 2 * (k % STAGES), taps, sum3, sum0, sum1)
                    v = sum3
                gl.thread_barrier()  # all have read the line
                if i + STAGES < ROWS + 2:
                    _fetch(x, lines, 2 * (k % STAGES), barrier, picture, top - 1 + i + STAGES, left)
                v = gl.reshape(v, (PAIRS, 2, C))
                v = v * table.index(0).load(of_channels)[None, None, :]
                v = v + table.index(1).load(of_channels)[None, None, :]
                if NOISE:
                    v = v + gl.expand_dims(added.to(gl.float32), 2)
                v = gl.maximum(v, v * SLOPE)
                f = table.index(2).load(of_channels)[None, None, :]
                red.store(gl.reshape(gl.sum(v * f, 2), (2 * PAIRS,)))
                f = table.index(3).load(of_channels)[None, None, :]
                green.store(gl.reshape(gl.sum(v * f, 2), (2 * PAIRS,)))
                f = table.index(4).load(of_channels)[None, None, :]
                blue.store(gl.reshape(gl.sum(v * f, 2), (2 * PAIRS,)))
                gl.thread_barrier()
                _store(red.load(flat), skip0, rgb_bias, 0, rgb, n, row, pixel, inside, H, W)
                _store(green.load(flat), skip1, rgb_bias, 1, rgb, n, row, pixel, inside, H, W)
                _store(blue.load(flat), skip2, rgb_bias, 2, rgb, n, row, pixel, inside, H, W)


def taps_of(pairs: Tensor) -> Tensor:
    """Filters of two pixels at once, (2 * out, 2 * in, 3, 2), as `convolve_to_rgb` takes them:
    (6, 2 * in, 2 * out)."""
    return pairs.permute(2, 3, 1, 0).reshape(6, pairs.shape[1], pairs.shape[0]).contiguous()


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
        x: (N, H, W + 2, 32) float16, times the style, an edge of zeros at each end of a row.
        taps: of `taps_of`.
        layer, factors, to_rgb, styles, skip, picture: as `stylegan2_kernels.finish` takes them.

    Returns:
        The picture, as `stylegan2_kernels.finish` returns it.
    """
    n, height, wide, channels = x.shape
    width = wide - 2
    shape = (n, height, width, 3) if picture == torch.uint8 else (n, 3, height, width)
    rgb = torch.empty(shape, dtype=picture, device=x.device)
    swizzled = (gl.NVMMASharedLayout(128, 16, rank) for rank in (4, 3))
    pairs = x.view(n, height, wide // 2, 2 * channels)
    rows = ROWS if n >= MANY else FEW_ROWS
    grid = triton.cdiv(width // 2, PAIRS), triton.cdiv(height, rows), n
    _convolve_to_rgb[grid](
        TensorDescriptor.from_tensor(pairs, [1, 1, PAIRS, 2 * channels], next(swizzled)),
        TensorDescriptor.from_tensor(taps, [1, *taps.shape[1:]], next(swizzled)),
        factors[:, layer.factor :], layer.noise, layer.bias,
        to_rgb.weight, to_rgb.bias, styles[:, to_rgb.style :], skip, rgb,
        styles.stride(0), factors.stride(0), height, width, channels, PAIRS, rows, STAGES,
        layer.noise is not None, SLOPE.value, num_warps=WARPS,
    )  # fmt: skip
    return rgb
