"""StyleGAN2's affine layers and demodulation, each for all layers at once.

Styles are (N, S) float32, rows contiguous: S channels of all layers in execution order.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from styleclip_networks.constants import DEMODULATION_EPS

BLOCK_ROWS = 16  # rows of a weight matrix per program


@triton.jit
def _compute_styles_kernel(
    w_plus_ptr, delta_ptr, weight_ptr, bias_ptr, latent_ptr, out_ptr,
    LATENTS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """style_r = sum_c weight_rc * w_plus[latent_r, c] + bias_r + delta_r."""
    image = tl.program_id(1)
    rows = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    cols = tl.arange(0, BLOCK_COLS)
    row_mask = rows < ROWS
    mask = row_mask[:, None] & (cols < COLS)[None, :]
    weight_ptrs = weight_ptr + rows[:, None] * COLS + cols[None, :]
    weight = tl.load(weight_ptrs, mask=mask, other=0.0)
    latent = tl.load(latent_ptr + rows, mask=row_mask, other=0)
    w_plus_ptrs = w_plus_ptr + (image * LATENTS + latent[:, None]) * COLS + cols[None, :]
    w = tl.load(w_plus_ptrs, mask=mask, other=0.0)
    style = tl.sum(weight * w, 1) + tl.load(bias_ptr + rows, mask=row_mask, other=0.0)
    style += tl.load(delta_ptr + image * ROWS + rows, mask=row_mask, other=0.0)
    tl.store(out_ptr + image * ROWS + rows, style, mask=row_mask)


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
    n, n_latents, n_cols = w_plus.shape
    n_rows = weight.shape[0]
    out = torch.empty_like(delta)
    _compute_styles_kernel[(triton.cdiv(n_rows, BLOCK_ROWS), n)](
        w_plus, delta, weight, bias, latent, out, n_latents, n_rows, n_cols,
        BLOCK_ROWS=BLOCK_ROWS, BLOCK_COLS=triton.next_power_of_2(n_cols),
    )  # fmt: skip
    return out


@dataclass(frozen=True)
class BatchStyles:
    """The styles of a batch in the three ways that its layers read them; all are float32.

    Attributes:
        raw: S as the affine layers give it, (N, S), read by toRGB.
        normalized: each convolution's style divided by its largest magnitude, (N, S); undefined
            in the places of toRGB's styles.
        dcoefs: demodulation coefficients of all convolutions, (N, outputs).
    """

    raw: Tensor
    normalized: Tensor
    dcoefs: Tensor


@dataclass(frozen=True)
class DemodulationWeights:
    """What the demodulation of all convolutions reads beside the styles.

    Attributes:
        squared_weights: squared weights summed over the taps, (out, in) of layer after layer,
            flat, float32.
        tiles: (B, 5) int32, one row per program: where the layer's style begins, its channels,
            where its dcoefs begin, how many the program computes, where its rows of
            `squared_weights` begin.
        n_dcoefs: output channels of all convolutions.
        max_channels: channels of the longest style.
    """

    squared_weights: Tensor
    tiles: Tensor
    n_dcoefs: int
    max_channels: int


def demodulation_tiles(
    style_start: int, n_cols: int, dcoef_start: int, n_rows: int, weight_start: int
) -> list[tuple[int, ...]]:
    """Return the rows of `DemodulationWeights.tiles` of one layer with `n_rows` filters."""
    return [
        (
            style_start,
            n_cols,
            dcoef_start + row,
            min(BLOCK_ROWS, n_rows - row),
            weight_start + row * n_cols,
        )
        for row in range(0, n_rows, BLOCK_ROWS)
    ]


@triton.jit
def _demodulate_kernel(
    styles_ptr, squared_weights_ptr, tile_ptr, normalized_ptr, dcoefs_ptr,
    STYLES_ROW_STRIDE: tl.constexpr, DCOEFS_ROW_STRIDE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr, GAIN: tl.constexpr, EPS: tl.constexpr,
    TILE_FIELDS: tl.constexpr,
):  # fmt: skip
    """With m = max_i |s_i|: normalized_i = s_i / m and
    dcoef_o = GAIN / sqrt(sum_i squared_weights_oi (s_i / m)² + EPS / m²)."""
    image = tl.program_id(1)
    tile_ptr += tl.program_id(0) * TILE_FIELDS
    style_start, n_cols = tl.load(tile_ptr), tl.load(tile_ptr + 1)
    dcoef_start, n_rows = tl.load(tile_ptr + 2), tl.load(tile_ptr + 3)
    weight_start = tl.load(tile_ptr + 4)
    cols = tl.arange(0, BLOCK_COLS)
    col_mask = cols < n_cols
    style_ptrs = styles_ptr + image * STYLES_ROW_STRIDE + style_start + cols
    style = tl.load(style_ptrs, mask=col_mask, other=0.0)
    peak = tl.maximum(tl.max(tl.abs(style), 0), 1e-20)
    style = style / peak
    # Every tile of a layer writes the same numbers.
    normalized_ptrs = normalized_ptr + image * STYLES_ROW_STRIDE + style_start + cols
    tl.store(normalized_ptrs, style, mask=col_mask)
    rows = tl.arange(0, BLOCK_ROWS)
    row_mask = rows < n_rows
    mask = row_mask[:, None] & col_mask[None, :]
    weight_ptrs = squared_weights_ptr + weight_start + rows[:, None] * n_cols + cols[None, :]
    squared_weights = tl.load(weight_ptrs, mask=mask, other=0.0)
    total = tl.sum(squared_weights * (style * style)[None, :], 1) + EPS / (peak * peak)
    dcoef_ptrs = dcoefs_ptr + image * DCOEFS_ROW_STRIDE + dcoef_start + rows
    tl.store(dcoef_ptrs, GAIN / tl.sqrt(total), mask=row_mask)


def demodulate(styles: Tensor, weights: DemodulationWeights, gain: float) -> BatchStyles:
    """Normalize the styles and compute the demodulation coefficients of all convolutions.

    Demodulation (StyleGAN2, section 2.2) is a convolution of features times their style, whose
    output is multiplied by the dcoefs. Dividing a style by its largest magnitude keeps the features
    within half precision, and the dcoefs make up for it.

    Args:
        styles: S, (N, S) float32.
        gain: the activation's, multiplied into the dcoefs.
    """
    n, n_channels = styles.shape
    normalized = torch.empty_like(styles)
    dcoefs = torch.empty(n, weights.n_dcoefs, dtype=torch.float32, device=styles.device)
    _demodulate_kernel[(weights.tiles.shape[0], n)](
        styles, weights.squared_weights, weights.tiles, normalized, dcoefs,
        n_channels, weights.n_dcoefs, BLOCK_ROWS=BLOCK_ROWS,
        BLOCK_COLS=triton.next_power_of_2(weights.max_channels), GAIN=gain, EPS=DEMODULATION_EPS,
        TILE_FIELDS=weights.tiles.shape[1],
    )  # fmt: skip
    return BatchStyles(styles, normalized, dcoefs)
