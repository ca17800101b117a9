"""What follows a convolution of StyleGAN2: dcoefs, noise, bias, leaky ReLU, toRGB, the next style.

Features are (N, H, W, C), contiguous, in half precision. The skip is (N, 3, H / 2, W / 2) float32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from styleclip_networks.constants import LEAKY_RELU_SLOPE

CONV_CLAMP = 60_000.0  # just within float16
MANY_PIXELS = 128 * 1024  # of a batch: from here on, 128 pixels a program keep any device busy
# An upsampled pixel sees two pixels along each dimension. Their weights, from
# `styleclip_networks.resampling.RESAMPLE_FILTER`: 3/4 and 1/4.
NEAR, FAR = tl.constexpr(0.75), tl.constexpr(0.25)
ROUND_TO_INTEGER = tl.constexpr(2.0**23)  # x + 2^23 - 2^23 is x rounded, half to even


@dataclass(frozen=True)
class EpilogueParams:
    """The constants of what follows a convolution with C outputs.

    Attributes:
        dcoef_start: where its coefficients begin in `BatchStyles.dcoefs`.
        bias: (C,) float32, times the activation's gain.
        noise: (H, W) of the features' dtype, times the noise strength and the gain; None without
            noise.
    """

    dcoef_start: int
    bias: Tensor
    noise: Tensor | None


@dataclass(frozen=True)
class ToRGBParams:
    """A toRGB layer: weight (3, C) and bias (3,), float32; where its style begins in S."""

    weight: Tensor
    bias: Tensor
    style_start: int


def fills_device(n_pixels: int) -> bool:
    """Return whether a batch with `n_pixels` keeps any device busy with large blocks."""
    return n_pixels >= MANY_PIXELS


@triton.jit
def _upsample_skip(
    skip_ptr, image, color, row, col, mask, HEIGHT: tl.constexpr, WIDTH: tl.constexpr
):
    """Pixels of the skip at twice its size: by the resample filter, NEAR of the nearer pixel and
    FAR of the farther along each dimension."""
    near_row, near_col = row // 2, col // 2
    far_row, far_col = near_row - 1 + 2 * (row % 2), near_col - 1 + 2 * (col % 2)
    skip_ptr += (image * 3 + color) * ((HEIGHT // 2) * (WIDTH // 2))
    far_row_mask = mask & (far_row >= 0) & (far_row < HEIGHT // 2)
    far_col_mask = (far_col >= 0) & (far_col < WIDTH // 2)
    near_ptrs = skip_ptr + near_row * (WIDTH // 2)
    a = tl.load(near_ptrs + near_col, mask=mask, other=0.0)
    b = tl.load(near_ptrs + far_col, mask=mask & far_col_mask, other=0.0)
    far_ptrs = skip_ptr + far_row * (WIDTH // 2)
    c = tl.load(far_ptrs + near_col, mask=far_row_mask, other=0.0)
    d = tl.load(far_ptrs + far_col, mask=far_row_mask & far_col_mask, other=0.0)
    return NEAR * NEAR * a + NEAR * FAR * (b + c) + FAR * FAR * d


@triton.jit
def _store_rgb(
    red, green, blue, image, pixels, mask, rgb_bias_ptr, skip_ptr, rgb_ptr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, HAS_SKIP: tl.constexpr, TO_UINT8: tl.constexpr,
):  # fmt: skip
    """Add bias and upsampled skip to toRGB's sums, and store them as uint8 or as floats."""
    for color in tl.static_range(3):
        value = red if color == 0 else (green if color == 1 else blue)
        value = value + tl.load(rgb_bias_ptr + color)
        if HAS_SKIP:
            row, col = pixels // WIDTH, pixels % WIDTH
            value += _upsample_skip(skip_ptr, image, color, row, col, mask, HEIGHT, WIDTH)
        if TO_UINT8:
            value = (tl.minimum(tl.maximum(value, -1.0), 1.0) + 1.0) * 127.5
            value = (value + ROUND_TO_INTEGER) - ROUND_TO_INTEGER
            rgb_ptrs = rgb_ptr + (image * HEIGHT * WIDTH + pixels) * 3 + color
            tl.store(rgb_ptrs, value.to(tl.uint8), mask=mask)
        else:
            if rgb_ptr.dtype.element_ty != tl.float32:
                value = tl.minimum(tl.maximum(value, -1.0), 1.0)
            rgb_ptrs = rgb_ptr + (image * 3 + color) * (HEIGHT * WIDTH) + pixels
            tl.store(rgb_ptrs, value.to(rgb_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _apply_epilogue_kernel(
    x_ptr, dcoefs_ptr, noise_ptr, bias_ptr, next_style_ptr, rgb_weight_ptr, rgb_bias_ptr,
    rgb_style_ptr, skip_ptr, rgb_ptr, out_ptr,
    STYLES_ROW_STRIDE: tl.constexpr, DCOEFS_ROW_STRIDE: tl.constexpr,
    HEIGHT: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    SLOPE: tl.constexpr, CLAMP: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
    HAS_NOISE: tl.constexpr, HAS_NEXT_STYLE: tl.constexpr, HAS_SKIP: tl.constexpr,
    TO_UINT8: tl.constexpr,
):  # fmt: skip
    """v = clamp(leaky_relu(x * dcoef + noise + bias)), out = v * next_style,
    rgb_j = sum_c v_c * rgb_style_c * rgb_weight_jc + rgb_bias_j + upsampled skip_j."""
    dtype = x_ptr.dtype.element_ty
    image = tl.program_id(1).to(tl.int64)  # a batch may have more elements than int32 counts
    pixels = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    pixel_mask = pixels < HEIGHT * WIDTH
    red = tl.zeros((BLOCK_PIXELS,), tl.float32)
    green, blue = red, red
    if HAS_NOISE:
        noise = tl.load(noise_ptr + pixels, mask=pixel_mask, other=0.0)
    clamp = tl.full((1, 1), CLAMP, dtype)
    for start in range(0, CHANNELS, BLOCK_CHANNELS):
        channels = start + tl.arange(0, BLOCK_CHANNELS)
        channel_mask = channels < CHANNELS
        mask = pixel_mask[:, None] & channel_mask[None, :]
        offsets = image * (HEIGHT * WIDTH * CHANNELS)
        offsets += pixels[:, None] * CHANNELS + channels[None, :]
        dcoef_ptrs = dcoefs_ptr + image * DCOEFS_ROW_STRIDE + channels
        dcoef = tl.load(dcoef_ptrs, mask=channel_mask, other=0.0)
        dcoef = tl.minimum(dcoef, CLAMP).to(dtype)
        shift = tl.load(bias_ptr + channels, mask=channel_mask, other=0.0).to(dtype)[None, :]
        if HAS_NOISE:
            shift = noise[:, None] + shift
        v = tl.load(x_ptr + offsets, mask=mask, other=0.0) * dcoef[None, :] + shift
        v = tl.minimum(tl.maximum(tl.maximum(v, v * SLOPE), -clamp), clamp)
        if HAS_NEXT_STYLE:
            style_ptrs = next_style_ptr + image * STYLES_ROW_STRIDE + channels
            next_style = tl.load(style_ptrs, mask=channel_mask, other=0.0).to(dtype)
            tl.store(out_ptr + offsets, v * next_style[None, :], mask=mask)
        v = v.to(tl.float32)
        style_ptrs = rgb_style_ptr + image * STYLES_ROW_STRIDE + channels
        style = tl.load(style_ptrs, mask=channel_mask, other=0.0)
        weight = tl.load(rgb_weight_ptr + channels, mask=channel_mask, other=0.0)
        red += tl.sum(v * (style * weight)[None, :], 1)
        weight = tl.load(rgb_weight_ptr + CHANNELS + channels, mask=channel_mask, other=0.0)
        green += tl.sum(v * (style * weight)[None, :], 1)
        weight = tl.load(rgb_weight_ptr + 2 * CHANNELS + channels, mask=channel_mask, other=0.0)
        blue += tl.sum(v * (style * weight)[None, :], 1)
    _store_rgb(
        red, green, blue, image, pixels, pixel_mask, rgb_bias_ptr, skip_ptr, rgb_ptr,
        HEIGHT, WIDTH, HAS_SKIP, TO_UINT8,
    )  # fmt: skip


def apply_epilogue_(
    x: Tensor,
    epilogue: EpilogueParams,
    to_rgb: ToRGBParams,
    dcoefs: Tensor,
    styles: Tensor,
    next_style: Tensor | None,
    skip: Tensor | None,
    image_dtype: torch.dtype = torch.float32,
) -> tuple[Tensor | None, Tensor]:
    """Run everything between a 3x3 convolution and the next convolution.

    Args:
        x: output of the convolution, (N, H, W, C), in half precision; overwritten.
        dcoefs: all coefficients, (N, outputs) float32.
        styles: S, (N, S) float32; toRGB's are read.
        next_style: normalized styles from the next convolution's on, (N, ≥ C) float32, rows as
            long as those of `styles`; None after the last convolution.
        skip: RGB of half the size, (N, 3, H / 2, W / 2) float32; None at 4x4.
        image_dtype: dtype of RGB. All but float32 are clamped to [-1, 1]; uint8 is 0 to 255.

    Returns:
        (features times the next style, in the memory of `x`, or None without a next style;
        RGB (N, 3, H, W), or (N, H, W, 3) as uint8).
    """
    n, height, width, n_channels = x.shape
    block_channels = triton.next_power_of_2(n_channels)
    if fills_device(n * height * width):
        block_channels, block_pixels, num_warps = min(block_channels, 64), 128, 2
    else:  # more, smaller programs
        block_pixels, num_warps = max(1, 4096 // block_channels), 4
    to_uint8 = image_dtype == torch.uint8
    shape = (n, height, width, 3) if to_uint8 else (n, 3, height, width)
    rgb = torch.empty(shape, dtype=image_dtype, device=x.device)
    _apply_epilogue_kernel[(triton.cdiv(height * width, block_pixels), n)](
        x, dcoefs[:, epilogue.dcoef_start :], epilogue.noise, epilogue.bias, next_style,
        to_rgb.weight, to_rgb.bias, styles[:, to_rgb.style_start :], skip, rgb, x,
        styles.stride(0), dcoefs.stride(0), height, width, n_channels,
        SLOPE=LEAKY_RELU_SLOPE, CLAMP=CONV_CLAMP,
        BLOCK_PIXELS=block_pixels, BLOCK_CHANNELS=block_channels,
        HAS_NOISE=epilogue.noise is not None, HAS_NEXT_STYLE=next_style is not None,
        HAS_SKIP=skip is not None, TO_UINT8=to_uint8, num_warps=num_warps,
    )  # fmt: skip
    return None if next_style is None else x, rgb
