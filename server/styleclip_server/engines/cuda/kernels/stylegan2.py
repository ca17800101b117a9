"""StyleGAN2's layers around the convolutions, in Triton's language (the compiler's, not the
server's).

Activations are (N, H, W, C), contiguous, in half precision. Each picture passes memory twice a
layer: the convolution reads and writes it, and one of `finish` and `blur_and_finish` does all the
rest. Those two must leave the device's arithmetic idle to be as fast as its memory: they compute
in half precision what half-precision numbers go into and come out of, two numbers an instruction,
and toRGB's sums in float32. Every kernel is launched by a function of the same name without the
underscore; S is the number of StyleSpace channels of all layers.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

SLOPE = tl.constexpr(0.2)  # of the leaky ReLU
LARGEST = tl.constexpr(60_000.0)  # just within float16
MANY_PIXELS = 128 * 1024  # from which 128 pixels a program are enough programs for any device
LINES = 2  # of the smaller picture that one program of `blur_and_finish` makes large, if many
ROWS = 16  # rows of a matrix that one program of `styles` or `demodulation` multiplies


@triton.jit
def _styles(
    w_plus, delta, weight, bias, latent, out,
    L: tl.constexpr, W: tl.constexpr, W2: tl.constexpr, S: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.arange(0, W2)
    inside = (row < S)[:, None] & (column < W)[None, :]
    a = tl.load(weight + row[:, None] * W + column[None, :], inside, 0.0)
    which = tl.load(latent + row, row < S, 0)
    b = tl.load(w_plus + (n * L + which[:, None]) * W + column[None, :], inside, 0.0)
    style = tl.sum(a * b, 1) + tl.load(bias + row, row < S, 0.0)
    style += tl.load(delta + n * S + row, row < S, 0.0)
    tl.store(out + n * S + row, style, row < S)


def styles(w_plus: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, latent: Tensor) -> Tensor:
    """Every affine layer at once: W_PLUS (N, L, W), DELTA (N, S) → S (N, S), float32.

    weight (S, W), bias (S,); latent (S,) int32 is the row of W_PLUS that feeds each channel.
    """
    n, rows, width = w_plus.shape
    size = weight.shape[0]
    out = torch.empty_like(delta)
    _styles[(triton.cdiv(size, ROWS), n)](
        w_plus, delta, weight, bias, latent, out,
        rows, width, triton.next_power_of_2(width), size, ROWS,
    )  # fmt: skip
    return out


@triton.jit
def _demodulation(
    style, energy, blocks, scaled, factor,
    S: tl.constexpr, TOTAL: tl.constexpr, WIDEST: tl.constexpr, ROWS: tl.constexpr,
    GAIN: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(1)
    block = blocks + tl.program_id(0) * 5
    start, channels, first = tl.load(block), tl.load(block + 1), tl.load(block + 2)
    rows, weights = tl.load(block + 3), tl.load(block + 4)
    column = tl.arange(0, WIDEST)
    s = tl.load(style + n * S + start + column, column < channels, 0.0)
    largest = tl.maximum(tl.max(tl.abs(s), 0), 1e-20)
    s = s / largest
    # Each block of a layer writes the same numbers.
    tl.store(scaled + n * S + start + column, s, column < channels)
    row = tl.arange(0, ROWS)
    inside = (row < rows)[:, None] & (column < channels)[None, :]
    e = tl.load(energy + weights + row[:, None] * channels + column[None, :], inside, 0.0)
    total = tl.sum(e * (s * s)[None, :], 1) + 1e-8 / (largest * largest)
    tl.store(factor + n * TOTAL + first + row, GAIN / tl.sqrt(total), row < rows)


def demodulation(
    style: Tensor, energy: Tensor, blocks: Tensor, outputs: int, widest: int, gain: float
) -> tuple[Tensor, Tensor]:
    """Demodulation (StyleGAN2, section 2.2) of every convolution at once.

    Returns each convolution's style over its largest magnitude m (N, S), float32, so that half
    precision does not overflow, and (N, outputs) the factors, times `gain`, for convolutions of
    that: gain · m / sqrt(sum_i energy_oi s_i² + eps) = gain / sqrt(sum_i energy_oi (s_i/m)² +
    eps/m²). toRGB's styles are left unwritten.

    energy: sum of the squared taps, layer by layer (out, in), flat. blocks (B, 5) int32: where the
    style begins, its channels, where the factors begin, how many, where in `energy`.
    """
    n, size = style.shape
    scaled = torch.empty_like(style)
    factor = torch.empty(n, outputs, dtype=torch.float32, device=style.device)
    _demodulation[(blocks.shape[0], n)](
        style,
        energy,
        blocks,
        scaled,
        factor,
        size,
        outputs,
        triton.next_power_of_2(widest),
        ROWS,
        gain,
    )
    return scaled, factor


@triton.jit
def _skip(skip, n, j, y, x, inside, H: tl.constexpr, W: tl.constexpr):
    """The binomial filter's up-sampling: 3/4 of the nearer pixel, 1/4 of the farther, each way."""
    near_y, near_x = y // 2, x // 2
    far_y, far_x = near_y - 1 + 2 * (y % 2), near_x - 1 + 2 * (x % 2)
    plane = skip + (n * 3 + j) * ((H // 2) * (W // 2))
    far_y_in = inside & (far_y >= 0) & (far_y < H // 2)
    far_x_in = (far_x >= 0) & (far_x < W // 2)
    a = tl.load(plane + near_y * (W // 2) + near_x, inside, 0.0)
    b = tl.load(plane + near_y * (W // 2) + far_x, inside & far_x_in, 0.0)
    c = tl.load(plane + far_y * (W // 2) + near_x, far_y_in, 0.0)
    d = tl.load(plane + far_y * (W // 2) + far_x, far_y_in & far_x_in, 0.0)
    return 0.5625 * a + 0.1875 * (b + c) + 0.0625 * d


@triton.jit
def _store_rgb(
    red, green, blue, n, pixel, inside, rgb_bias, skip, rgb,
    H: tl.constexpr, W: tl.constexpr, SKIP: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """toRGB's sums (pixels,), bias and the up-sampled skip added, as floats or as bytes."""
    for j in tl.static_range(3):
        value = (red if j == 0 else (green if j == 1 else blue)) + tl.load(rgb_bias + j)
        if SKIP:
            value += _skip(skip, n, j, pixel // W, pixel % W, inside, H, W)
        if BYTES:
            value = (tl.minimum(tl.maximum(value, -1.0), 1.0) + 1.0) * 127.5
            # Rounded half to even, as the reference does: adding 2^23 leaves no fraction.
            value = (value + 8388608.0) - 8388608.0
            tl.store(rgb + (n * H * W + pixel) * 3 + j, value.to(tl.uint8), inside)
        else:
            if rgb.dtype.element_ty != tl.float32:
                value = tl.minimum(tl.maximum(value, -1.0), 1.0)
            at = rgb + (n * 3 + j) * (H * W) + pixel
            tl.store(at, value.to(rgb.dtype.element_ty), inside)


@triton.jit
def _finish(
    x, factor, noise, bias, style, rgb_weight, rgb_bias, rgb_style, skip, rgb, out,
    S: tl.constexpr, TOTAL: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    CHANNELS: tl.constexpr, PIXELS: tl.constexpr, NOISE: tl.constexpr, RGB: tl.constexpr,
    SKIP: tl.constexpr, BYTES: tl.constexpr, NEXT: tl.constexpr,
):  # fmt: skip
    kind = x.dtype.element_ty
    n = tl.program_id(1).to(tl.int64)  # a batch may have more numbers than 32 bits count
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    inside = pixel < H * W
    red = tl.zeros((PIXELS,), tl.float32)
    green, blue = red, red
    if NOISE:
        added = tl.load(noise + pixel, inside, 0.0)
    largest = tl.full((1, 1), LARGEST, kind)
    for start in range(0, C, CHANNELS):
        channel = start + tl.arange(0, CHANNELS)
        exists = channel < C
        mask = inside[:, None] & exists[None, :]
        at = n * (H * W * C) + (pixel[:, None] * C + channel[None, :])
        d = tl.minimum(tl.load(factor + n * TOTAL + channel, exists, 0.0), LARGEST).to(kind)
        b = tl.load(bias + channel, exists, 0.0).to(kind)
        shift = b[None, :]
        if NOISE:
            shift = added[:, None] + shift
        v = tl.load(x + at, mask, 0.0) * d[None, :] + shift
        v = tl.minimum(tl.maximum(tl.maximum(v, v * SLOPE), -largest), largest)
        if NEXT:
            s = tl.load(style + n * S + channel, exists, 0.0).to(kind)
            tl.store(out + at, v * s[None, :], mask)
        if RGB:
            v = v.to(tl.float32)
            f = tl.load(rgb_style + n * S + channel, exists, 0.0)
            red += tl.sum(v * (f * tl.load(rgb_weight + channel, exists, 0.0))[None, :], 1)
            green += tl.sum(v * (f * tl.load(rgb_weight + C + channel, exists, 0.0))[None, :], 1)
            blue += tl.sum(v * (f * tl.load(rgb_weight + 2 * C + channel, exists, 0.0))[None, :], 1)
    if RGB:
        _store_rgb(red, green, blue, n, pixel, inside, rgb_bias, skip, rgb,
                   H, W, SKIP, BYTES)  # fmt: skip


@dataclass(frozen=True)
class Finish:
    """What follows a convolution: where its numbers lie, and its constants.

    factor: its place in `demodulation`'s factors. bias (C,) float32, times the activation's gain.
    noise (H, W), times its strength and the gain, or None.
    """

    factor: int
    bias: Tensor
    noise: Tensor | None


@dataclass(frozen=True)
class ToRGB:
    """A toRGB: weight (3, C) float32, bias (3,) float32; style: its place in S."""

    weight: Tensor
    bias: Tensor
    style: int


def finish(
    x: Tensor,
    layer: Finish,
    factors: Tensor,
    *,
    scaled: Tensor | None = None,
    to_rgb: ToRGB | None = None,
    styles: Tensor | None = None,
    skip: Tensor | None = None,
    picture: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor | None]:
    """Demodulation, noise, bias, leaky ReLU, toRGB, and the next layer's style, in one pass.

    Args:
        x: the convolution's result (N, H, W, C), overwritten by what is returned.
        factors: of `demodulation`.
        scaled: (N, S) at the next convolution's style; None: this is the last layer.
        to_rgb: its picture is added to `skip`, (N, 3, H / 2, W / 2) float32 or None, up-sampled.
        styles: S (N, S).
        picture: its type; all but float32 are clamped to [-1, 1], which uint8, (N, H, W, 3), has
            as 0 to 255.

    Returns:
        (features times the next style, picture (N, 3, H, W) or None). Without a next style the
        features are spoilt.
    """
    n, height, width, channels = x.shape
    # Small pictures are spread over the device.
    wide = triton.next_power_of_2(channels)
    if n * height * width >= MANY_PIXELS:
        wide, per_program, warps = min(wide, 64), 128, 2
    else:
        per_program, warps = max(1, 4096 // wide), 4
    rgb = None
    if to_rgb is not None:
        shape = (n, height, width, 3) if picture == torch.uint8 else (n, 3, height, width)
        rgb = torch.empty(shape, dtype=picture, device=x.device)
    _finish[(triton.cdiv(height * width, per_program), n)](
        x, factors[:, layer.factor :], layer.noise, layer.bias, scaled,
        None if to_rgb is None else to_rgb.weight, None if to_rgb is None else to_rgb.bias,
        None if to_rgb is None or styles is None else styles[:, to_rgb.style :],
        skip, rgb, x,
        0 if styles is None else styles.stride(0), factors.stride(0),
        height, width, channels, wide, per_program,
        layer.noise is not None, to_rgb is not None, skip is not None, picture == torch.uint8,
        scaled is not None, num_warps=warps,
    )  # fmt: skip
    return x, rgb


@triton.jit
def _blurred_line(
    left, right, n, row, x, channel, inside, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    PIXEL: tl.constexpr, ROWS: tl.constexpr, LEFT: tl.constexpr, RIGHT: tl.constexpr,
):  # fmt: skip
    """The filter along one row of the transposed convolution, at columns 2x and 2x + 1. Its even
    columns lie in `left`, LEFT pixels a row, its odd ones in `right`."""
    exists = inside & (row >= 0) & (row < ROWS)
    a = left + n * (ROWS * LEFT * PIXEL) + row * (LEFT * PIXEL)
    b = right + n * (ROWS * RIGHT * PIXEL) + row * (RIGHT * PIXEL)
    at = x[:, None] * PIXEL + channel[None, :]
    v0 = tl.load(b + at - PIXEL, exists & (x > 0)[:, None], 0.0)
    v1 = tl.load(a + at, exists, 0.0)
    v2 = tl.load(b + at, exists, 0.0)
    v3 = tl.load(a + at + PIXEL, exists, 0.0)
    v4 = tl.load(b + at + PIXEL, exists & (x + 1 < W)[:, None], 0.0)
    return (v0 + v3) * 0.25 + (v1 + v2) * 0.75, (v1 + v4) * 0.25 + (v2 + v3) * 0.75


@triton.jit
def _store_blurred(
    v, n, row, odd: tl.constexpr, d, b, s, slope, noise, out, x, channel, inside,
    H: tl.constexpr, W: tl.constexpr, C: tl.constexpr, NOISE: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    """Pixels 2x + odd of a row, of the larger picture; W is the smaller one's."""
    shift = b[None, :]
    if NOISE:
        added = tl.load(noise + row * (2 * W) + 2 * x + odd, x < W, 0.0).to(tl.float32)
        shift = added[:, None] * s[None, :] + shift
    v = v.to(tl.float32) * d[None, :] + shift
    v = tl.minimum(v * 0.6 + tl.abs(v) * slope[None, :], LARGEST)
    wide: tl.constexpr = 2 * W + 2 * EDGE
    pixel = row * wide + 2 * x + (odd + EDGE)
    at = out + n * (2 * H * wide * C) + (pixel[:, None] * C + channel[None, :])
    tl.store(at, v.to(out.dtype.element_ty), inside)
    if EDGE:
        end = x == (W - 1 if odd else 0)
        zero = tl.zeros(v.shape, out.dtype.element_ty)
        tl.store(at + (C if odd else -C), zero, inside & end[:, None])


@triton.jit
def _blur_and_finish(
    t00, t01, t10, t11, factor, noise, bias, style, out,
    S: tl.constexpr, TOTAL: tl.constexpr, H: tl.constexpr, W: tl.constexpr, C: tl.constexpr,
    PARTS: tl.constexpr, COLUMNS: tl.constexpr, CHANNELS: tl.constexpr, LINES: tl.constexpr,
    NOISE: tl.constexpr, EDGE: tl.constexpr,
):  # fmt: skip
    # Here H, W are those of the smaller picture; each of its lines makes two of the larger one.
    PIXEL: tl.constexpr = C * (4 // PARTS)
    ODD_ROWS: tl.constexpr = H + 1 if PARTS == 1 else H
    ODD: tl.constexpr = W if PARTS == 4 else W + 1
    n, strip = tl.program_id(2).to(tl.int64), tl.program_id(0) // tl.cdiv(W, COLUMNS)
    x = tl.program_id(0) % tl.cdiv(W, COLUMNS) * COLUMNS + tl.arange(0, COLUMNS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = (x < W)[:, None] & (channel < C)[None, :]
    # With the next style s in factor, bias and noise already, the leaky ReLU is 0.6 v ± 0.4 |v|, by
    # the sign of s.
    s = tl.load(style + n * S + channel, channel < C, 0.0)
    d = tl.load(factor + n * TOTAL + channel, channel < C, 0.0) * s
    b = tl.load(bias + channel, channel < C, 0.0) * s
    slope = tl.where(s < 0, -0.4, 0.4)
    first = strip * LINES
    # Each line of the transposed convolution is read once and kept while it is needed.
    e0, o0 = _blurred_line(
        t10, t11, n, first - 1, x, channel, inside, H, W, C, PIXEL, ODD_ROWS, W + 1, ODD
    )
    e1, o1 = _blurred_line(
        t00, t01, n, first, x, channel, inside, H, W, C, PIXEL, H + 1, W + 1, ODD
    )
    e2, o2 = _blurred_line(
        t10, t11, n, first, x, channel, inside, H, W, C, PIXEL, ODD_ROWS, W + 1, ODD
    )
    for line in tl.static_range(LINES):
        y = first + line
        e3, o3 = _blurred_line(
            t00, t01, n, y + 1, x, channel, inside, H, W, C, PIXEL, H + 1, W + 1, ODD
        )
        e4, o4 = _blurred_line(
            t10, t11, n, y + 1, x, channel, inside, H, W, C, PIXEL, ODD_ROWS, W + 1, ODD
        )
        here = inside & (y < H)
        for place in tl.static_range(4):
            if place == 0:
                v = (e0 + e3) * 0.25 + (e1 + e2) * 0.75
            elif place == 1:
                v = (o0 + o3) * 0.25 + (o1 + o2) * 0.75
            elif place == 2:
                v = (e1 + e4) * 0.25 + (e2 + e3) * 0.75
            else:
                v = (o1 + o4) * 0.25 + (o2 + o3) * 0.75
            _store_blurred(
                v, n, 2 * y + place // 2, place % 2, d, b, s, slope, noise, out, x, channel, here,
                H, W, C, NOISE, EDGE,
            )  # fmt: skip
        e0, o0, e1, o1, e2, o2 = e2, o2, e3, o3, e4, o4


def blur_and_finish(
    phases: tuple[Tensor, Tensor, Tensor, Tensor],
    size: tuple[int, int],
    layer: Finish,
    factors: Tensor,
    scaled: Tensor,
    edge: bool = False,
) -> Tensor:
    """The second half of an up-sampling convolution from `size` (H, W), in one pass.

    Phase 2a + b of the stride-2 transposed convolution has its pixels (2i + a, 2j + b) at (i, j),
    (N, H + 1 or H, W + 1 or W, C): all four interleaved in one tensor's channels, or the two of a
    row in one each, (N, H + 1 - a, W + 1, 2C), or each a tensor of its own, (N, H + 1 - a,
    W + 1 - b, C). The binomial filter, then as `finish` without toRGB: → (N, 2H, 2W, C) times the
    next style `scaled`; with `edge` (N, 2H, 2W + 2, C), zeros at both ends of a row.
    """
    t = phases[0]
    n, channels = t.shape[0], t.shape[3]
    height, width = size
    shape = n, 2 * height, 2 * width + 2 * edge, channels
    out = torch.empty(shape, dtype=t.dtype, device=t.device)
    per_program = min(triton.next_power_of_2(channels), 64)
    columns = min(triton.next_power_of_2(width), 512 // per_program)
    lines = LINES if n * height * width >= MANY_PIXELS // 16 else 1
    strips = triton.cdiv(height, lines) * triton.cdiv(width, columns)
    grid = (strips, triton.cdiv(channels, per_program), n)
    _blur_and_finish[grid](
        *phases, factors[:, layer.factor :], layer.noise, layer.bias, scaled, out,
        scaled.stride(0), factors.stride(0), height, width, channels,
        4 * channels // t.stride(2), columns, per_program, lines, layer.noise is not None,
        int(edge),
    )  # fmt: skip
    return out
