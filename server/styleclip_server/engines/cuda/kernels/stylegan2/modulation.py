"""StyleGAN2's affine layers and demodulation, each for all layers at once.

Styles are (N, S) float32, rows contiguous: S channels of all layers in execution order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from styleclip_networks.stylegan2 import DEMODULATION_EPS

EPS = tl.constexpr(DEMODULATION_EPS)
BLOCK_ROWS = 16  # rows of a weight matrix per program


@triton.jit
def _compute_styles_kernel(
    w_plus_ptr, delta_ptr, weight_ptr, bias_ptr, latent_ptr, out_ptr,
    num_latents: tl.constexpr, n_rows: tl.constexpr, n_cols: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """style_r = sum_c weight_rc * w_plus[latent_r, c] + bias_r + delta_r."""
    image = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    cols = tl.arange(0, BLOCK_COLS)
    row_mask = rows < n_rows
    mask = row_mask[:, None] & (cols < n_cols)[None, :]
    weight = tl.load(weight_ptr + rows[:, None] * n_cols + cols[None, :], mask, 0.0)
    latent = tl.load(latent_ptr + rows, row_mask, 0)
    w_plus_ptrs = w_plus_ptr + (image * num_latents + latent[:, None]) * n_cols + cols[None, :]
    w = tl.load(w_plus_ptrs, mask, 0.0)
    style = tl.sum(weight * w, 1) + tl.load(bias_ptr + rows, row_mask, 0.0)
    style += tl.load(delta_ptr + image * n_rows + rows, row_mask, 0.0)
    tl.store(out_ptr + image * n_rows + rows, style, row_mask)


def compute_styles(
    w_plus: Tensor, delta: Tensor, weight: Tensor, bias: Tensor, latent: Tensor
) -> Tensor:
    """Apply all affine layers to W_PLUS and add DELTA.

    Args:
        w_plus: (N, L, w_dim) float32.
        delta: offset in StyleSpace, (N, S) float32.
        weight, bias: of the affine layers, (S, w_dim) and (S,) float32.
        latent: row of W_PLUS that each channel reads, (S,) int32.

    Returns:
        The styles, (N, S) float32.
    """
    n, num_latents, n_cols = w_plus.shape
    n_rows = weight.shape[0]
    out = torch.empty_like(delta)
    _compute_styles_kernel[(triton.cdiv(n_rows, BLOCK_ROWS), n)](
        w_plus, delta, weight, bias, latent, out, num_latents, n_rows, n_cols,
        BLOCK_ROWS=BLOCK_ROWS, BLOCK_COLS=triton.next_power_of_2(n_cols),
    )  # fmt: skip
    return out


@triton.jit
def _compute_dcoefs_kernel(
    styles_ptr, squared_weight_ptr, tile_ptr, normalized_ptr, dcoefs_ptr,
    styles_row_stride: tl.constexpr, dcoefs_row_stride: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, GAIN: tl.constexpr,
):  # fmt: skip
    """With m = max_i |s_i|: normalized_i = s_i / m and
    dcoef_o = GAIN / sqrt(sum_i squared_weight_oi (s_i / m)² + EPS / m²)."""
    image = tl.program_id(1)
    tile_ptr += tl.program_id(0) * 5
    style_start, n_cols, dcoef_start = (
        tl.load(tile_ptr), tl.load(tile_ptr + 1), tl.load(tile_ptr + 2)
    )  # fmt: skip
    n_rows, weight_start = tl.load(tile_ptr + 3), tl.load(tile_ptr + 4)
    cols = tl.arange(0, BLOCK_COLS)
    col_mask = cols < n_cols
    style_ptrs = styles_ptr + image * styles_row_stride + style_start + cols
    style = tl.load(style_ptrs, col_mask, 0.0)
    peak = tl.maximum(tl.max(tl.abs(style), 0), 1e-20)
    style = style / peak
    # Every tile of a layer writes the same numbers.
    normalized_ptrs = normalized_ptr + image * styles_row_stride + style_start + cols
    tl.store(normalized_ptrs, style, col_mask)
    rows = tl.arange(0, BLOCK_ROWS)
    row_mask = rows < n_rows
    mask = row_mask[:, None] & col_mask[None, :]
    weight_ptrs = squared_weight_ptr + weight_start + rows[:, None] * n_cols + cols[None, :]
    squared_weight = tl.load(weight_ptrs, mask, 0.0)
    total = tl.sum(squared_weight * (style * style)[None, :], 1) + EPS / (peak * peak)
    dcoef_ptrs = dcoefs_ptr + image * dcoefs_row_stride + dcoef_start + rows
    tl.store(dcoef_ptrs, GAIN / tl.sqrt(total), row_mask)


@dataclass(frozen=True)
class DemodulationWeights:
    """What the demodulation of all convolutions reads beside the styles.

    Attributes:
        squared_weight: sum of the squared taps of each filter, (out, in) of layer after layer,
            flat, float32.
        tiles: (B, 5) int32, one row per program: where the layer's style begins, its channels,
            where its dcoefs begin, how many the program computes, where its rows of
            `squared_weight` begin.
        num_dcoefs: output channels of all convolutions.
        max_channels: channels of the longest style.
    """

    squared_weight: Tensor
    tiles: Tensor
    num_dcoefs: int
    max_channels: int


def compute_dcoefs(
    styles: Tensor, demodulation: DemodulationWeights, gain: float
) -> tuple[Tensor, Tensor]:
    """Compute the demodulation coefficients of all convolutions (StyleGAN2, section 2.2).

    A convolution of features times its style, times its dcoefs, is demodulated. Each style is
    divided by its largest magnitude here, so that the features stay within half precision, and the
    dcoefs make up for it. They are also multiplied by `gain`, the activation's.

    Args:
        styles: (N, S) float32.

    Returns:
        (normalized styles (N, S), dcoefs (N, num_dcoefs)), float32. The places of toRGB's styles
        are not written.
    """
    n, num_channels = styles.shape
    normalized = torch.empty_like(styles)
    dcoefs = torch.empty(n, demodulation.num_dcoefs, dtype=torch.float32, device=styles.device)
    _compute_dcoefs_kernel[(demodulation.tiles.shape[0], n)](
        styles, demodulation.squared_weight, demodulation.tiles, normalized, dcoefs,
        num_channels, demodulation.num_dcoefs, BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_COLS=triton.next_power_of_2(demodulation.max_channels), GAIN=gain,
    )  # fmt: skip
    return normalized, dcoefs
