"""The steps of e4e between its large convolutions, each one Triton-language kernel.

Every function here has the plain PyTorch formula of its step beside the launch: that is what
runs on tensors outside CUDA, unless Triton interprets its kernels (TRITON_INTERPRET=1). Pictures
are (N, C, H, W) in channels-last memory; activations have the encoder's dtype, biases, slopes,
gates and all arithmetic are float32.
"""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.nn import functional as F

try:
    import triton
    import triton.language as tl
except ImportError:  # PyTorch for CPUs comes without it
    triton = None

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
SLOPE = 0.01  # of the leaky ReLU of map2style
TILE = 2048  # elements that one program of an elementwise kernel handles


def stem(face: Tensor, weight: Tensor, bias: Tensor, slope: Tensor, dtype: torch.dtype) -> Tensor:
    """PReLU(3x3 convolution): (N, 3, H, W) float32, contiguous → (N, C, H, W) of `dtype`.

    weight (C, 3, 3, 3), bias (C,), slope (C,).
    """
    n, _, height, width = face.shape
    channels = len(bias)
    if not _kernels(face):
        y = F.conv2d(face.to(dtype), weight, padding=1)
        y = F.prelu(y.float() + _column(bias), slope).to(dtype)
        return y.contiguous(memory_format=torch.channels_last)
    out = _empty(face, (n, channels, height, width), dtype)
    block = min(128, triton.next_power_of_2(width))
    grid = (height * triton.cdiv(width, block), n)
    _stem[grid](
        face, weight, bias, slope, out, height, width, channels,
        BW=block, BC=max(16, triton.next_power_of_2(channels)), num_warps=4,
    )  # fmt: skip
    return out


def prelu_(x: Tensor, bias: Tensor, slope: Tensor) -> Tensor:
    """PReLU(x + bias) in place; bias (3, 3, C): of the first row, the rows between and the last,
    and the same of the columns."""
    n, channels, height, width = x.shape
    if not _kernels(x):
        rows = [0] + [1] * (height - 2) + [2]
        columns = [0] + [1] * (width - 2) + [2]
        table = bias[rows][:, columns].permute(2, 0, 1)
        return x.copy_(F.prelu(x.float() + table, slope))
    block, lanes = _blocks(channels)
    grid = (triton.cdiv(height * width, block), n, triton.cdiv(channels, lanes))
    _prelu[grid](x, bias, slope, height, width, channels, BP=block, BC=lanes, num_warps=4)
    return x


def squeeze(y: Tensor, bias: Tensor, fc1: Tensor, fc2: Tensor) -> Tensor:
    """Gates of squeeze and excitation for y + bias: (N, C, H, W) → (N, C) float32 in (0, 1).

    bias (C,), fc1 (R, C), fc2 (C, R), all float32.
    """
    n, channels, height, width = y.shape
    if not _kernels(y):
        mean = y.float().mean((2, 3)) + bias
        return torch.sigmoid(F.linear(F.relu(F.linear(mean, fc1)), fc2))
    area, padded = height * width, triton.next_power_of_2(channels)
    parts = max(1, min(8192 // padded, area // 16))
    lanes = min(64, padded)
    sums = torch.empty((n, parts, channels), dtype=torch.float32, device=y.device)
    grid = (parts, n, triton.cdiv(channels, lanes))
    _sums[grid](
        y, sums, area, triton.cdiv(area, parts), channels, BP=TILE // 64, BC=lanes, num_warps=4
    )
    gate = torch.empty((n, channels), dtype=torch.float32, device=y.device)
    _gate[(n,)](
        sums, bias, fc1, fc2, gate, area, parts, channels, len(fc1),
        PARTS=triton.next_power_of_2(parts), BC=padded, BR=triton.next_power_of_2(len(fc1)),
        num_warps=8,
    )  # fmt: skip
    return gate


def residual_(
    y: Tensor, bias: Tensor, gate: Tensor, shortcut: Tensor, shortcut_bias: Tensor
) -> Tensor:
    """gate (y + bias) + shortcut + shortcut_bias, written into `y`.

    gate (N, C), the biases (C,). `shortcut` has y's shape, but may leave out rows and columns of
    what it is a view of.
    """
    n, channels, height, width = y.shape
    if not _kernels(y):
        gated = gate[:, :, None, None] * (y.float() + _column(bias))
        return y.copy_(gated + shortcut.float() + _column(shortcut_bias))
    block, lanes = _blocks(channels)
    grid = (triton.cdiv(height * width, block), n, triton.cdiv(channels, lanes))
    _residual[grid](
        y, bias, gate, shortcut, shortcut_bias, height * width, width, channels,
        shortcut.stride(0), shortcut.stride(2), shortcut.stride(3),
        BP=block, BC=lanes, num_warps=4,
    )  # fmt: skip
    return y


def upsample_add_(y: Tensor, bias: Tensor, x: Tensor) -> Tensor:
    """`x` (N, C, h, w) in the size of `y` (bilinear, corners aligned) + y + bias, into `y`."""
    n, channels, height, width = y.shape
    if not _kernels(y):
        grown = F.interpolate(x.float(), size=(height, width), mode="bilinear", align_corners=True)
        return y.copy_(grown + y.float() + _column(bias))
    block, lanes = _blocks(channels)
    grid = (triton.cdiv(height * width, block), n, triton.cdiv(channels, lanes))
    _upsample_add[grid](
        y, bias, x, height, width, x.shape[2], x.shape[3], channels,
        BP=block, BC=lanes, num_warps=4,
    )  # fmt: skip
    return y


def leaky_relu_into(out: Tensor, x: Tensor, bias: Tensor) -> None:
    """leaky ReLU(x + bias): x (N, G * C, H, W) channels-last → out (N, H, W, G, C), which may be
    a part of the heads of a tensor, or x's own memory. bias (G * C,)."""
    n, channels, height, width = x.shape
    if not _kernels(x):
        y = F.leaky_relu(x.float() + _column(bias), SLOPE)
        out.copy_(y.permute(0, 2, 3, 1).reshape(out.shape))
        return
    block, lanes = _blocks(channels)
    pixels = n * height * width
    grid = (triton.cdiv(pixels, block), triton.cdiv(channels, lanes))
    _leaky_relu[grid](
        x, bias, out, pixels, channels, out.stride(2), SLOPE=SLOPE,
        BP=block, BC=lanes, num_warps=4,
    )  # fmt: skip


def head_convolutions_into(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """leaky ReLU(3x3 convolution of stride 2, padding 1), for G heads, each with its own weights.

    x (N, H, W, G, C) → out (N, H / 2, W / 2, G, D): each a whole tensor or some heads of one.
    weight (G, D, 3, 3, C), bias (G, D).
    """
    n, height, width, heads, channels = x.shape
    outputs = weight.shape[1]
    if not _kernels(x):
        y = F.conv2d(
            x.permute(0, 3, 4, 1, 2).flatten(1, 2),
            weight.permute(0, 1, 4, 2, 3).flatten(0, 1),
            stride=2,
            padding=1,
            groups=heads,
        )
        y = F.leaky_relu(y.float() + _column(bias.flatten()), SLOPE)
        out.copy_(y.permute(0, 2, 3, 1).reshape(out.shape))
        return
    pixels = n * (height // 2) * (width // 2)
    rows, columns, depth, warps, stages = _head_tile(pixels)
    columns = min(columns, max(16, triton.next_power_of_2(outputs)))
    depth = min(depth, max(16, triton.next_power_of_2(channels)))
    grid = (triton.cdiv(pixels, rows), triton.cdiv(outputs, columns), heads)
    _head_convolutions[grid](
        x, weight, bias, out, pixels, height, width, x.stride(2), out.stride(2),
        C=channels, D=outputs, FIRST=1 if height == 2 else 0, SLOPE=SLOPE,
        BM=rows, BN=columns, BK=depth, num_warps=warps, num_stages=stages,
    )  # fmt: skip


def rows(codes: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """W+ from each head's code: (N, L, C) → (N, L, D) float32, both contiguous.

    Row 0 is W_0 c_0 + b_0, row i is W_0 c_0 + W_i c_i + b_i. weight (L, D, C), with a factor
    1 / sqrt(C) to come (EqualLinear); bias (L, D).
    """
    n, count, channels = codes.shape
    outputs = weight.shape[1]
    if not _kernels(codes):
        own = torch.einsum("nlc,ldc->nld", codes.float(), weight.float() * channels**-0.5)
        own[:, 1:] += own[:, :1]
        return own + bias
    out = torch.empty((n, count, outputs), dtype=torch.float32, device=codes.device)
    columns = min(32, max(16, triton.next_power_of_2(outputs)))
    grid = (triton.cdiv(n, 16), triton.cdiv(outputs, columns), count)
    _rows[grid](
        codes, weight, bias, out, n, channels**-0.5, C=channels, D=outputs, L=count,
        BM=16, BN=columns, BK=min(128, max(16, triton.next_power_of_2(channels))),
        num_warps=4, num_stages=4,
    )  # fmt: skip
    return out


def _kernels(x: Tensor) -> bool:
    return triton is not None and (x.is_cuda or INTERPRETED)


def _column(bias: Tensor) -> Tensor:
    return bias[:, None, None]


def _empty(like: Tensor, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=torch.channels_last)


def _blocks(channels: int) -> tuple[int, int]:
    """Pixels and channels of one program."""
    lanes = min(64, triton.next_power_of_2(channels))
    return TILE // lanes, lanes


def _head_tile(pixels: int) -> tuple[int, int, int, int, int]:
    """BM, BN, BK, warps and stages for so many output pixels of a head.

    Few pixels: reading the weights is the work, so many narrow programs. Many: arithmetic is.
    """
    if pixels <= 16:
        return 16, 32, 128, 4, 4
    if pixels <= 32:
        return 32, 32, 128, 4, 4
    if pixels <= 128:
        return 64, 64, 64, 4, 4
    if pixels <= 512:
        return 64, 128, 64, 4, 4
    return 128, 128, 64, 8, 3


if triton is not None:

    @triton.jit
    def _stem(
        face, weight, bias, slope, out, H, W, C, BW: tl.constexpr, BC: tl.constexpr
    ):  # fmt: skip
        blocks = tl.cdiv(W, BW)
        h = tl.program_id(0) // blocks
        w = (tl.program_id(0) % blocks) * BW + tl.arange(0, BW)
        n = tl.program_id(1)
        c = tl.arange(0, BC)
        k = tl.arange(0, 32)  # 27 used: input channel, row, column
        y = h + (k % 9) // 3 - 1
        x = w[:, None] + (k % 3)[None, :] - 1
        inside = ((k < 27) & (y >= 0) & (y < H))[None, :] & (x >= 0) & (x < W)
        plane = face + n * 3 * H * W
        pixels = tl.load(plane + ((k // 9) * H * W + y * W)[None, :] + x, mask=inside, other=0.0)
        wanted = (k < 27)[:, None] & (c < C)[None, :]
        taps = tl.load(weight + c[None, :] * 27 + k[:, None], mask=wanted, other=0.0)
        acc = tl.dot(pixels.to(taps.dtype), taps, input_precision="ieee")
        acc += tl.load(bias + c, mask=c < C, other=0.0)[None, :]
        acc = tl.where(acc > 0, acc, acc * tl.load(slope + c, mask=c < C, other=0.0)[None, :])
        target = out + ((n * H + h) * W + w)[:, None] * C + c[None, :]
        stored = (w < W)[:, None] & (c < C)[None, :]
        tl.store(target, acc.to(out.dtype.element_ty), mask=stored)

    @triton.jit
    def _prelu(x, bias, slope, H, W, C, BP: tl.constexpr, BC: tl.constexpr):
        p = tl.program_id(0) * BP + tl.arange(0, BP)
        c = tl.program_id(2) * BC + tl.arange(0, BC)
        h, w = p // W, p % W
        row = tl.where(h == 0, 0, tl.where(h == H - 1, 2, 1))
        column = tl.where(w == 0, 0, tl.where(w == W - 1, 2, 1))
        mask = (p < H * W)[:, None] & (c < C)[None, :]
        target = x + (tl.program_id(1) * H * W + p)[:, None] * C + c[None, :]
        y = tl.load(target, mask=mask, other=0.0).to(tl.float32)
        y += tl.load(bias + (row * 3 + column)[:, None] * C + c[None, :], mask=mask, other=0.0)
        y = tl.where(y > 0, y, y * tl.load(slope + c, mask=c < C, other=0.0)[None, :])
        tl.store(target, y.to(x.dtype.element_ty), mask=mask)

    @triton.jit
    def _sums(y, sums, area, share, C, BP: tl.constexpr, BC: tl.constexpr):
        part, n = tl.program_id(0), tl.program_id(1)
        c = tl.program_id(2) * BC + tl.arange(0, BC)
        end = tl.minimum((part + 1) * share, area)
        acc = tl.zeros((BP, BC), tl.float32)
        for first in range(part * share, end, BP):
            p = first + tl.arange(0, BP)
            mask = (p < end)[:, None] & (c < C)[None, :]
            source = y + (n * area + p)[:, None] * C + c[None, :]
            acc += tl.load(source, mask=mask, other=0.0).to(tl.float32)
        target = sums + (n * tl.num_programs(0) + part) * C + c
        tl.store(target, tl.sum(acc, 0), mask=c < C)

    @triton.jit
    def _gate(
        sums, bias, fc1, fc2, gate, area, parts, C, R,
        PARTS: tl.constexpr, BC: tl.constexpr, BR: tl.constexpr,
    ):  # fmt: skip
        n = tl.program_id(0)
        part, c, r = tl.arange(0, PARTS), tl.arange(0, BC), tl.arange(0, BR)
        source = sums + (n * parts + part)[:, None] * C + c[None, :]
        some = tl.load(source, mask=(part < parts)[:, None] & (c < C)[None, :], other=0.0)
        mean = tl.sum(some, 0) / area + tl.load(bias + c, mask=c < C, other=0.0)
        mask = (r < R)[:, None] & (c < C)[None, :]
        first = tl.load(fc1 + r[:, None] * C + c[None, :], mask=mask, other=0.0)
        hidden = tl.maximum(tl.sum(first * mean[None, :], 1), 0.0)
        second = tl.load(fc2 + c[None, :] * R + r[:, None], mask=mask, other=0.0)
        answer = tl.sum(second * hidden[:, None], 0)
        tl.store(gate + n * C + c, 1 / (1 + tl.exp(-answer)), mask=c < C)

    @triton.jit
    def _residual(
        y, bias, gate, shortcut, shortcut_bias, area, W, C, stride_n, stride_h, stride_w,
        BP: tl.constexpr, BC: tl.constexpr,
    ):  # fmt: skip
        p = tl.program_id(0) * BP + tl.arange(0, BP)
        n = tl.program_id(1)
        c = tl.program_id(2) * BC + tl.arange(0, BC)
        mask = (p < area)[:, None] & (c < C)[None, :]
        target = y + (n * area + p)[:, None] * C + c[None, :]
        kept = shortcut + n * stride_n + (p // W * stride_h + p % W * stride_w)[:, None]
        own = tl.load(target, mask=mask, other=0.0).to(tl.float32)
        other = tl.load(kept + c[None, :], mask=mask, other=0.0).to(tl.float32)
        factor = tl.load(gate + n * C + c, mask=c < C, other=0.0)
        offset = factor * tl.load(bias + c, mask=c < C, other=0.0)
        offset += tl.load(shortcut_bias + c, mask=c < C, other=0.0)
        own = own * factor[None, :] + other + offset[None, :]
        tl.store(target, own.to(y.dtype.element_ty), mask=mask)

    @triton.jit
    def _upsample_add(
        y, bias, x, H, W, h_in, w_in, C, BP: tl.constexpr, BC: tl.constexpr
    ):  # fmt: skip
        p = tl.program_id(0) * BP + tl.arange(0, BP)
        n = tl.program_id(1)
        c = tl.program_id(2) * BC + tl.arange(0, BC)
        mask = (p < H * W)[:, None] & (c < C)[None, :]
        row = (p // W).to(tl.float32) * ((h_in - 1).to(tl.float32) / (H - 1))
        column = (p % W).to(tl.float32) * ((w_in - 1).to(tl.float32) / (W - 1))
        top, left = row.to(tl.int32), column.to(tl.int32)
        down, right = (row - top)[:, None], (column - left)[:, None]
        bottom = tl.minimum(top + 1, h_in - 1)
        last = tl.minimum(left + 1, w_in - 1)
        base = x + n * h_in * w_in * C + c[None, :]
        a = tl.load(base + (top * w_in + left)[:, None] * C, mask=mask, other=0.0).to(tl.float32)
        b = tl.load(base + (top * w_in + last)[:, None] * C, mask=mask, other=0.0).to(tl.float32)
        upper = a + (b - a) * right
        a = tl.load(base + (bottom * w_in + left)[:, None] * C, mask=mask, other=0.0)
        b = tl.load(base + (bottom * w_in + last)[:, None] * C, mask=mask, other=0.0)
        lower = a.to(tl.float32) + (b.to(tl.float32) - a.to(tl.float32)) * right
        target = y + (n * H * W + p)[:, None] * C + c[None, :]
        own = tl.load(target, mask=mask, other=0.0).to(tl.float32)
        own += tl.load(bias + c, mask=c < C, other=0.0)[None, :]
        own += upper + (lower - upper) * down
        tl.store(target, own.to(y.dtype.element_ty), mask=mask)

    @triton.jit
    def _leaky_relu(
        x, bias, out, pixels, C, pitch, SLOPE: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr
    ):
        p = tl.program_id(0) * BP + tl.arange(0, BP)
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        mask = (p < pixels)[:, None] & (c < C)[None, :]
        y = tl.load(x + p[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
        y += tl.load(bias + c, mask=c < C, other=0.0)[None, :]
        y = tl.where(y > 0, y, y * SLOPE)
        tl.store(out + p[:, None] * pitch + c[None, :], y.to(out.dtype.element_ty), mask=mask)

    @triton.jit
    def _head_convolutions(
        x, weight, bias, out, pixels, H, W, pitch_in, pitch_out,
        C: tl.constexpr, D: tl.constexpr, FIRST: tl.constexpr, SLOPE: tl.constexpr,
        BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    ):  # fmt: skip
        # An implicit matrix product: output pixels by output channels, over taps and inputs.
        # From 2x2 pixels the one output reads only the last two rows and columns of taps.
        SIDE: tl.constexpr = 3 - FIRST
        STEPS: tl.constexpr = (C + BK - 1) // BK
        head = tl.program_id(2)
        m = tl.program_id(0) * BM + tl.arange(0, BM)
        o = tl.program_id(1) * BN + tl.arange(0, BN)
        k = tl.arange(0, BK)
        area = (H // 2) * (W // 2)
        n, p = m // area, m % area
        top, left = p // (W // 2) * 2 - 1, p % (W // 2) * 2 - 1
        source = x + (n * H * W)[:, None] * pitch_in + head * C + k[None, :]
        matrix = weight + (head * D + o)[None, :] * (9 * C) + k[:, None]
        acc = tl.zeros((BM, BN), tl.float32)
        for step in range(SIDE * SIDE * STEPS):
            tap = step // STEPS
            ky, kx = FIRST + tap // SIDE, FIRST + tap % SIDE
            first = step % STEPS * BK
            row, column = top + ky, left + kx
            inside = (m < pixels) & (row >= 0) & (row < H) & (column >= 0) & (column < W)
            real = k < C - first
            a = tl.load(
                source + (row * W + column)[:, None] * pitch_in + first,
                mask=inside[:, None] & real[None, :],
                other=0.0,
            )
            b = tl.load(
                matrix + (ky * 3 + kx) * C + first,
                mask=real[:, None] & (o < D)[None, :],
                other=0.0,
            )
            acc = tl.dot(a, b, acc, input_precision="ieee")
        acc += tl.load(bias + head * D + o, mask=o < D, other=0.0)[None, :]
        acc = tl.where(acc > 0, acc, acc * SLOPE)
        target = out + m[:, None] * pitch_out + head * D + o[None, :]
        stored = (m < pixels)[:, None] & (o < D)[None, :]
        tl.store(target, acc.to(out.dtype.element_ty), mask=stored)

    @triton.jit
    def _rows(
        codes, weight, bias, out, count, scale,
        C: tl.constexpr, D: tl.constexpr, L: tl.constexpr,
        BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    ):  # fmt: skip
        STEPS: tl.constexpr = (C + BK - 1) // BK
        row = tl.program_id(2)
        n = tl.program_id(0) * BM + tl.arange(0, BM)
        o = tl.program_id(1) * BN + tl.arange(0, BN)
        k = tl.arange(0, BK)
        acc = tl.zeros((BM, BN), tl.float32)
        for step in range(tl.where(row > 0, 2, 1) * STEPS):
            head = tl.where(step < STEPS, row, 0)
            first = step % STEPS * BK
            real = k < C - first
            a = tl.load(
                codes + (n * L + head)[:, None] * C + (first + k)[None, :],
                mask=(n < count)[:, None] & real[None, :],
                other=0.0,
            )
            b = tl.load(
                weight + (head * D + o)[None, :] * C + (first + k)[:, None],
                mask=real[:, None] & (o < D)[None, :],
                other=0.0,
            )
            acc = tl.dot(a, b, acc, input_precision="ieee")
        acc = acc * scale + tl.load(bias + row * D + o, mask=o < D, other=0.0)[None, :]
        stored = (n < count)[:, None] & (o < D)[None, :]
        tl.store(out + (n[:, None] * L + row) * D + o[None, :], acc, mask=stored)
