"""map2style, from the pyramid to W+, with each step of all heads at once (G heads, L in all).

Features are (N, H, W, G, C), of the encoder's dtype: each head's channels are contiguous within a
pixel.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from styleclip_networks.e4e import MAP2STYLE_SLOPE
from styleclip_server.engines.cuda.kernels.e4e.elementwise import elementwise_blocks


@triton.jit
def _bias_leaky_relu_kernel(
    x_ptr, bias_ptr, out_ptr, n_pixels, n_channels, out_pixel_stride,
    SLOPE: tl.constexpr, BLOCK_PIXELS: tl.constexpr, BLOCK_CHANNELS: tl.constexpr,
):  # fmt: skip
    """out = leaky_relu(x + bias)."""
    pixels = tl.program_id(0) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    channels = tl.program_id(1) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    channel_mask = channels < n_channels
    mask = (pixels < n_pixels)[:, None] & channel_mask[None, :]
    x_ptrs = x_ptr + pixels[:, None] * n_channels + channels[None, :]
    v = tl.load(x_ptrs, mask=mask, other=0.0).to(tl.float32)
    v += tl.load(bias_ptr + channels, mask=channel_mask, other=0.0)[None, :]
    v = tl.where(v > 0, v, v * SLOPE)
    out_ptrs = out_ptr + pixels[:, None] * out_pixel_stride + channels[None, :]
    tl.store(out_ptrs, v.to(out_ptr.dtype.element_ty), mask=mask)


def bias_leaky_relu_(out: Tensor, x: Tensor, bias: Tensor) -> None:
    """Write leaky_relu(x + bias) into `out`.

    Args:
        out: (N, H, W, G, C), a tensor or some heads of one.
        x: output of the heads' convolution, (N, H, W, G * C), contiguous.
        bias: (G * C,) float32.
    """
    n, height, width, n_channels = x.shape
    block_pixels, block_channels = elementwise_blocks(n_channels)
    n_pixels = n * height * width
    grid = triton.cdiv(n_pixels, block_pixels), triton.cdiv(n_channels, block_channels)
    _bias_leaky_relu_kernel[grid](
        x, bias, out, n_pixels, n_channels, out.stride(2), SLOPE=MAP2STYLE_SLOPE,
        BLOCK_PIXELS=block_pixels, BLOCK_CHANNELS=block_channels, num_warps=4,
    )  # fmt: skip


@triton.jit
def _convolve_heads_kernel(
    x_ptr, weight_ptr, bias_ptr, out_ptr, n_pixels, height, width, x_pixel_stride,
    out_pixel_stride, IN_CHANNELS: tl.constexpr, OUT_CHANNELS: tl.constexpr,
    FIRST_TAP: tl.constexpr, SLOPE: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out = leaky_relu(weight ∗ x + bias), as a matmul of (pixels, taps * in) and (taps * in, out)
    for each head."""
    TAPS: tl.constexpr = 3 - FIRST_TAP  # along one dimension
    STEPS_PER_TAP: tl.constexpr = (IN_CHANNELS + BLOCK_K - 1) // BLOCK_K
    head = tl.program_id(2)
    pixels = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    outputs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    pixel_mask, output_mask = pixels < n_pixels, outputs < OUT_CHANNELS
    out_area = (height // 2) * (width // 2)
    image, place = pixels // out_area, pixels % out_area
    top, left = place // (width // 2) * 2 - 1, place % (width // 2) * 2 - 1
    x_ptrs = x_ptr + (image * height * width)[:, None] * x_pixel_stride
    x_ptrs = x_ptrs + head * IN_CHANNELS + k[None, :]
    weight_ptrs = weight_ptr + (head * OUT_CHANNELS + outputs)[None, :] * (9 * IN_CHANNELS)
    weight_ptrs += k[:, None]
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(TAPS * TAPS * STEPS_PER_TAP):
        tap = step // STEPS_PER_TAP
        tap_row, tap_col = FIRST_TAP + tap // TAPS, FIRST_TAP + tap % TAPS
        first = step % STEPS_PER_TAP * BLOCK_K
        row, col = top + tap_row, left + tap_col
        inside = pixel_mask & (row >= 0) & (row < height) & (col >= 0) & (col < width)
        k_mask = k < IN_CHANNELS - first
        x = tl.load(
            x_ptrs + (row * width + col)[:, None] * x_pixel_stride + first,
            mask=inside[:, None] & k_mask[None, :],
            other=0.0,
        )
        weight = tl.load(
            weight_ptrs + (tap_row * 3 + tap_col) * IN_CHANNELS + first,
            mask=k_mask[:, None] & output_mask[None, :],
            other=0.0,
        )
        acc = tl.dot(x, weight, acc, input_precision="ieee")
    bias = tl.load(bias_ptr + head * OUT_CHANNELS + outputs, mask=output_mask, other=0.0)
    acc += bias[None, :]
    acc = tl.where(acc > 0, acc, acc * SLOPE)
    out_ptrs = out_ptr + pixels[:, None] * out_pixel_stride + head * OUT_CHANNELS + outputs[None, :]
    out_mask = pixel_mask[:, None] & output_mask[None, :]
    tl.store(out_ptrs, acc.to(out_ptr.dtype.element_ty), mask=out_mask)


def convolve_heads_(out: Tensor, x: Tensor, weight: Tensor, bias: Tensor) -> None:
    """Run a 3x3 convolution of stride 2 and padding 1 for each head, bias and leaky ReLU.

    Args:
        out: (N, H / 2, W / 2, G, D), a tensor or some heads of one.
        x: (N, H, W, G, C), a tensor or some heads of one.
        weight: (G, D, 3, 3, C), contiguous, of the encoder's dtype.
        bias: (G, D) float32.
    """
    n, height, width, n_heads, in_channels = x.shape
    out_channels = weight.shape[1]
    n_pixels = n * (height // 2) * (width // 2)
    block_m, block_n, block_k, num_warps, num_stages = _head_tile(n_pixels)
    block_n = min(block_n, max(16, triton.next_power_of_2(out_channels)))
    block_k = min(block_k, max(16, triton.next_power_of_2(in_channels)))
    grid = triton.cdiv(n_pixels, block_m), triton.cdiv(out_channels, block_n), n_heads
    _convolve_heads_kernel[grid](
        x, weight, bias, out, n_pixels, height, width, x.stride(2), out.stride(2),
        in_channels, out_channels,
        FIRST_TAP=1 if height == 2 else 0,  # from 2x2 pixels, row and column 0 see only padding
        SLOPE=MAP2STYLE_SLOPE, BLOCK_M=block_m, BLOCK_N=block_n, BLOCK_K=block_k,
        num_warps=num_warps, num_stages=num_stages,
    )  # fmt: skip


def _head_tile(n_pixels: int) -> tuple[int, int, int, int, int]:
    """Choose BLOCK_M, BLOCK_N, BLOCK_K, num_warps and num_stages by the output pixels per head.

    With few pixels, time goes into reading the weights: many narrow programs. With many, into
    arithmetic.
    """
    if n_pixels <= 16:
        return 16, 32, 128, 4, 4
    if n_pixels <= 32:
        return 32, 32, 128, 4, 4
    if n_pixels <= 128:
        return 64, 64, 64, 4, 4
    if n_pixels <= 512:
        return 64, 128, 64, 4, 4
    return 128, 128, 64, 8, 3


@triton.jit
def _project_codes_kernel(
    codes_ptr, weight_ptr, bias_ptr, out_ptr, batch, scale,
    IN_CHANNELS: tl.constexpr, OUT_CHANNELS: tl.constexpr, LATENTS: tl.constexpr,
    RELATIVE: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """out_0 = scale W_0 c_0 + b_0, out_i = scale (W_i c_i + W_0 c_0) + b_i; without W_0 c_0 if
    not RELATIVE."""
    STEPS: tl.constexpr = (IN_CHANNELS + BLOCK_K - 1) // BLOCK_K
    latent = tl.program_id(2)
    images = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    outputs = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    image_mask, output_mask = images < batch, outputs < OUT_CHANNELS
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(tl.where((latent > 0) & RELATIVE, 2, 1) * STEPS):
        head = tl.where(step < STEPS, latent, 0)
        first = step % STEPS * BLOCK_K
        k_mask = k < IN_CHANNELS - first
        code_ptrs = codes_ptr + (images * LATENTS + head)[:, None] * IN_CHANNELS
        code_ptrs += (first + k)[None, :]
        code_mask = image_mask[:, None] & k_mask[None, :]
        code = tl.load(code_ptrs, mask=code_mask, other=0.0)
        weight_ptrs = weight_ptr + (head * OUT_CHANNELS + outputs)[None, :] * IN_CHANNELS
        weight_ptrs += (first + k)[:, None]
        weight_mask = k_mask[:, None] & output_mask[None, :]
        weight = tl.load(weight_ptrs, mask=weight_mask, other=0.0)
        acc = tl.dot(code, weight, acc, input_precision="ieee")
    bias = tl.load(bias_ptr + latent * OUT_CHANNELS + outputs, mask=output_mask, other=0.0)
    acc = acc * scale + bias[None, :]
    out_ptrs = out_ptr + (images[:, None] * LATENTS + latent) * OUT_CHANNELS + outputs[None, :]
    tl.store(out_ptrs, acc, mask=image_mask[:, None] & output_mask[None, :])


def project_codes(codes: Tensor, weight: Tensor, bias: Tensor, *, relative: bool = True) -> Tensor:
    """Run the heads' linear layers and, if `relative`, add row 0 to the others (Tov et al. 2021,
    section 4).

    Args:
        codes: what the heads end with, (N, L, C), contiguous, of the encoder's dtype.
        weight: (L, D, C), contiguous, of that dtype, to be scaled by 1 / sqrt(C) (equalized
            learning rate).
        bias: (L, D) float32; if `relative`, those from row 1 on include row 0's.

    Returns:
        W+, (N, L, D) float32.
    """
    n, n_latents, in_channels = codes.shape
    out_channels = weight.shape[1]
    out = torch.empty((n, n_latents, out_channels), dtype=torch.float32, device=codes.device)
    block_n = min(32, max(16, triton.next_power_of_2(out_channels)))
    grid = triton.cdiv(n, 16), triton.cdiv(out_channels, block_n), n_latents
    _project_codes_kernel[grid](
        codes, weight, bias, out, n, in_channels**-0.5, in_channels, out_channels, n_latents,
        RELATIVE=relative, BLOCK_M=16, BLOCK_N=block_n,
        BLOCK_K=min(128, max(16, triton.next_power_of_2(in_channels))), num_warps=4, num_stages=4,
    )  # fmt: skip
    return out
