"""Histograms of oriented gradients, fused; `cuda.faces.fhog` computes the same in PyTorch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_CELL, _DIRECTIONS, _CHANNELS = 8, 18, 31
_BLOCKS = 16  # of 8 x 8 pixels in a program
_CELLS = 128  # in a program


@triton.jit(
    do_not_specialize=["height", "width", "blocks_down", "blocks_across"],
)  # fmt: skip
def _vote_kernel(
    canvas_ptr, image_ptr, y_ptr, x_ptr, limits_ptr, directions_ptr, corners_ptr,
    height, width, blocks_down, blocks_across, BLOCKS: tl.constexpr,
):  # fmt: skip
    """Sum up the votes of each block's pixels for the cells at its four corners, by direction."""
    block = tl.program_id(1) * BLOCKS + tl.arange(0, BLOCKS)
    pixel = tl.arange(0, 64)
    down, right = pixel // 8, pixel % 8
    row = tl.program_id(0) * 8 + down[None, :]
    column = block[:, None] * 8 + right[None, :]
    place = row * width + column
    inside = (block[:, None] < blocks_across) & (row > 0) & (row < height - 1)
    inside = inside & (column > 0) & (column < width - 1)
    image = tl.load(image_ptr + place, mask=inside, other=0)
    y = tl.load(y_ptr + place, mask=inside, other=-1)
    x = tl.load(x_ptr + place, mask=inside, other=-1)
    last_y = tl.load(limits_ptr + image * 5, mask=inside, other=0)
    last_x = tl.load(limits_ptr + image * 5 + 1, mask=inside, other=0)
    at_once = tl.load(limits_ptr + image * 5 + 2, mask=inside, other=0)
    visible = inside & (y >= 1) & (y < last_y) & (x >= 1) & (x < last_x)
    later = (visible & (x <= at_once)).to(tl.int32)
    longest = tl.full((BLOCKS, 64), 0, tl.int32)
    code = tl.full((BLOCKS, 64), 255 * 511 + 255, tl.int32)
    for channel in tl.static_range(3):
        at = canvas_ptr + channel * height * width + place
        to_right = tl.load(at + 1, mask=visible, other=0).to(tl.int32)
        to_right = to_right - tl.load(at - 1, mask=visible, other=0).to(tl.int32)
        downward = tl.load(at + width, mask=visible, other=0).to(tl.int32)
        downward = downward - tl.load(at - width, mask=visible, other=0).to(tl.int32)
        length = to_right * to_right + downward * downward
        its_code = (to_right + 255) * 511 + downward + 255
        if channel == 0:
            longest, code = length, its_code
        else:
            wins = 2 * length + later > 2 * longest
            longest = tl.where(wins, length, longest)
            code = tl.where(wins, its_code, code)
    direction = tl.load(directions_ptr + code, mask=visible, other=0).to(tl.int32)
    magnitude = tl.where(visible, tl.sqrt_rn(longest.to(tl.float32)), 0.0)
    lower = ((down.to(tl.float32) + 0.5) / 8)[None, :]
    far = ((right.to(tl.float32) + 0.5) / 8)[None, :]
    upper, near = 1.0 - lower, 1.0 - far
    plane = blocks_down * blocks_across
    out_ptrs = corners_ptr + tl.program_id(0) * blocks_across + block
    in_canvas = block < blocks_across
    for index in tl.static_range(18):
        votes = tl.where(direction == index, magnitude, 0.0)
        first = out_ptrs + 4 * index * plane
        tl.store(first, tl.sum(votes * (upper * near), 1), mask=in_canvas)
        tl.store(first + plane, tl.sum(votes * (upper * far), 1), mask=in_canvas)
        tl.store(first + 2 * plane, tl.sum(votes * (lower * near), 1), mask=in_canvas)
        tl.store(first + 3 * plane, tl.sum(votes * (lower * far), 1), mask=in_canvas)


@triton.jit
def _cell(corners_ptr, direction, plane, blocks_across, y, x, above, below, before, after):
    """Add up the votes of the four blocks around each cell (y, x) in one direction.

    Blocks exist where there are some `above`, `below`, `before` and `after` the cell's corner.
    """
    at = corners_ptr + 4 * direction * plane + y * blocks_across + x
    total = tl.load(at, mask=below & after, other=0.0)
    total += tl.load(at + plane - 1, mask=below & before, other=0.0)
    total += tl.load(at + 2 * plane - blocks_across, mask=above & after, other=0.0)
    total += tl.load(at + 3 * plane - blocks_across - 1, mask=above & before, other=0.0)
    return total


@triton.jit(do_not_specialize=["blocks_down", "blocks_across"])
def _histogram_kernel(
    corners_ptr, histograms_ptr, energy_ptr, blocks_down, blocks_across, CELLS: tl.constexpr,
):  # fmt: skip
    """Add up the votes for each cell, and the squares of its histogram without signs."""
    across = blocks_across + 1
    cells = (blocks_down + 1) * across
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    mask = cell < cells
    y, x = cell // across, cell % across
    above, below = mask & (y > 0), mask & (y < blocks_down)
    before, after = x > 0, x < blocks_across
    plane = blocks_down * blocks_across
    energy = tl.full((CELLS,), 0.0, tl.float32)
    for index in tl.static_range(9):
        one = _cell(corners_ptr, index, plane, blocks_across, y, x, above, below, before, after)
        other = _cell(
            corners_ptr, index + 9, plane, blocks_across, y, x, above, below, before, after
        )
        tl.store(histograms_ptr + index * cells + cell, one, mask=mask)
        tl.store(histograms_ptr + (index + 9) * cells + cell, other, mask=mask)
        energy += (one + other) * (one + other)
    tl.store(energy_ptr + cell, energy, mask=mask)


@triton.jit(do_not_specialize=["down", "across"])
def _feature_kernel(
    histograms_ptr, energy_ptr, image_ptr, y_ptr, x_ptr, limits_ptr, features_ptr, mask_ptr,
    down, across, CELLS: tl.constexpr,
):  # fmt: skip
    """Normalize each cell's histogram by the energies of four groups of neighbors."""
    cells = down * across
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    in_canvas = cell < cells
    image = tl.load(image_ptr + cell, mask=in_canvas, other=0)
    y = tl.load(y_ptr + cell, mask=in_canvas, other=-1)
    x = tl.load(x_ptr + cell, mask=in_canvas, other=-1)
    rows = tl.load(limits_ptr + image * 5 + 3, mask=in_canvas, other=0)
    columns = tl.load(limits_ptr + image * 5 + 4, mask=in_canvas, other=0)
    has_features = in_canvas & (y >= 0) & (y < rows) & (x >= 0) & (x < columns)
    tl.store(mask_ptr + cell, has_features.to(tl.uint8), mask=in_canvas)

    # Cells with features have neighbors on all sides.
    at = energy_ptr + cell
    upper = tl.load(at - across, mask=has_features, other=0.0)
    lower = tl.load(at + across, mask=has_features, other=0.0)
    center = tl.load(at, mask=has_features, other=0.0)
    left = tl.load(at - 1, mask=has_features, other=0.0)
    right = tl.load(at + 1, mask=has_features, other=0.0)
    upper_left = tl.load(at - across - 1, mask=has_features, other=0.0)
    upper_right = tl.load(at - across + 1, mask=has_features, other=0.0)
    lower_left = tl.load(at + across - 1, mask=has_features, other=0.0)
    lower_right = tl.load(at + across + 1, mask=has_features, other=0.0)
    limit_0 = 0.2 * tl.sqrt_rn((center + right) + (lower + lower_right) + 1e-4)
    limit_1 = 0.2 * tl.sqrt_rn((upper + upper_right) + (center + right) + 1e-4)
    limit_2 = 0.2 * tl.sqrt_rn((left + center) + (lower_left + lower) + 1e-4)
    limit_3 = 0.2 * tl.sqrt_rn((upper_left + upper) + (left + center) + 1e-4)
    scale_0, scale_1 = 0.1 / limit_0, 0.1 / limit_1
    scale_2, scale_3 = 0.1 / limit_2, 0.1 / limit_3

    energy_0 = tl.full((CELLS,), 0.0, tl.float32)
    energy_1, energy_2, energy_3 = energy_0, energy_0, energy_0
    for index in tl.static_range(27):
        if index < 18:
            votes = tl.load(histograms_ptr + index * cells + cell, mask=has_features, other=0.0)
        else:
            first = histograms_ptr + (index - 18) * cells + cell
            votes = tl.load(first, mask=has_features, other=0.0)
            votes += tl.load(first + 9 * cells, mask=has_features, other=0.0)
        by_0, by_1 = tl.minimum(votes, limit_0) * scale_0, tl.minimum(votes, limit_1) * scale_1
        by_2, by_3 = tl.minimum(votes, limit_2) * scale_2, tl.minimum(votes, limit_3) * scale_3
        value = tl.where(has_features, ((by_0 + by_1) + by_2) + by_3, 0.0)
        tl.store(features_ptr + index * cells + cell, value, mask=in_canvas)
        if index < 18:
            energy_0 += by_0
            energy_1 += by_1
            energy_2 += by_2
            energy_3 += by_3
    last = features_ptr + 27 * cells + cell
    tl.store(last, tl.where(has_features, energy_0 * (2 * 0.2357), 0.0), mask=in_canvas)
    tl.store(last + cells, tl.where(has_features, energy_1 * (2 * 0.2357), 0.0), mask=in_canvas)
    tl.store(last + 2 * cells, tl.where(has_features, energy_2 * (2 * 0.2357), 0.0), mask=in_canvas)
    tl.store(last + 3 * cells, tl.where(has_features, energy_3 * (2 * 0.2357), 0.0), mask=in_canvas)


def extract(
    canvas: Tensor,
    pixels: tuple[Tensor, Tensor, Tensor],
    cells: tuple[Tensor, Tensor, Tensor],
    limits: Tensor,
    directions: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute the features of a canvas of images.

    Args:
        canvas: (3, H, W) uint8 RGB; H and W are multiples of 8.
        pixels, cells: image, row and column of each, as `Layout` has them, int32.
        limits: of each image, as `list_limits` returns them (N, 5) int32.
        directions: the direction of every gradient uint8, as `direction_table`.

    Returns:
        Features (31, H / 8 + 1, W / 8 + 1) float32, 0 where no cell has any, and which cells have.
    """
    height, width = canvas.shape[1:]
    down, across = height // _CELL, width // _CELL
    device, shape = canvas.device, (down + 1, across + 1)
    count = shape[0] * shape[1]
    corners = torch.empty(_DIRECTIONS, 4, down, across, device=device)
    histograms = torch.empty(_DIRECTIONS, *shape, device=device)
    energy = torch.empty(shape, device=device)
    features = torch.empty(_CHANNELS, *shape, device=device)
    mask = torch.empty(shape, dtype=torch.bool, device=device)
    # Products are rounded before they are added, as PyTorch does.
    _vote_kernel[down, triton.cdiv(across, _BLOCKS)](
        canvas, *pixels, limits, directions, corners, height, width, down, across,
        BLOCKS=_BLOCKS, enable_fp_fusion=False,
    )  # fmt: skip
    programs = (triton.cdiv(count, _CELLS),)
    _histogram_kernel[programs](
        corners, histograms, energy, down, across, CELLS=_CELLS, enable_fp_fusion=False
    )
    _feature_kernel[programs](
        histograms, energy, *cells, limits, features, mask.view(torch.uint8), *shape,
        CELLS=_CELLS, enable_fp_fusion=False,
    )  # fmt: skip
    return features, mask
