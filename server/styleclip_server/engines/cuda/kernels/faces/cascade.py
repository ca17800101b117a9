"""dlib's landmark predictor, one level of its cascade (see `cuda.faces.landmarks`)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Of a face: the left, top, right and bottom of its box, and the photo's height, width and address.
PLACE = 7
_TREES = 64  # in a program
_COORDINATES = 32  # in a program
_TREES_AT_ONCE = 100  # whose leaves are loaded before they are added up


@triton.jit
def _intensity(
    place_ptr, anchors_ptr, offsets_ptr, shape_ptr, at, splits, a, b, mask,
):  # fmt: skip
    """Read the pixel next to a point of the shape, 0 outside the photo."""
    anchor = tl.load(anchors_ptr + at, mask=mask, other=0)
    x = tl.load(offsets_ptr + at, mask=mask, other=0.0)
    y = tl.load(offsets_ptr + splits + at, mask=mask, other=0.0)
    across = (a * x - b * y) + tl.load(shape_ptr + 2 * anchor, mask=mask, other=0.0)
    down = (b * x + a * y) + tl.load(shape_ptr + 2 * anchor + 1, mask=mask, other=0.0)
    left, top = tl.load(place_ptr), tl.load(place_ptr + 1)
    right, bottom = tl.load(place_ptr + 2), tl.load(place_ptr + 3)
    height, width = tl.load(place_ptr + 4), tl.load(place_ptr + 5)
    pixels_ptr = tl.load(place_ptr + 6).to(tl.pointer_type(tl.uint8))
    column = across.to(tl.float64) * (right - left).to(tl.float64) + left.to(tl.float64)
    row = down.to(tl.float64) * (bottom - top).to(tl.float64) + top.to(tl.float64)
    column, row = tl.floor(column + 0.5).to(tl.int64), tl.floor(row + 0.5).to(tl.int64)
    inside = mask & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    pixel_ptrs = pixels_ptr + row * width + column
    red = tl.load(pixel_ptrs, mask=inside, other=0).to(tl.int32)
    green = tl.load(pixel_ptrs + height * width, mask=inside, other=0).to(tl.int32)
    blue = tl.load(pixel_ptrs + 2 * height * width, mask=inside, other=0).to(tl.int32)
    return ((red + green + blue) // 3).to(tl.float32)


@triton.jit(do_not_specialize=["trees"])
def _leaf_kernel(
    places_ptr, shapes_ptr, fit_ptr, anchors_ptr, offsets_ptr, thresholds_ptr, leaves_ptr, trees,
    SPLITS: tl.constexpr, DEPTH: tl.constexpr, COORDINATES: tl.constexpr, PADDED: tl.constexpr,
    TREES: tl.constexpr, PLACE: tl.constexpr,
):  # fmt: skip
    """Find the leaf that each tree ends at: where two pixels differ by more than the threshold, the
    left node follows."""
    face = tl.program_id(0)
    tree = tl.program_id(1) * TREES + tl.arange(0, TREES)
    mask = tree < trees
    place_ptr, shape_ptr = places_ptr + face * PLACE, shapes_ptr + face * COORDINATES
    coordinate = tl.arange(0, PADDED)
    exists = coordinate < COORDINATES
    shape = tl.load(shape_ptr + coordinate, mask=exists, other=0.0).to(tl.float64)
    cosines = tl.load(fit_ptr + 2 * coordinate, mask=exists, other=0.0)
    sines = tl.load(fit_ptr + 2 * coordinate + 1, mask=exists, other=0.0)
    a = tl.sum(shape * cosines, 0).to(tl.float32)
    b = tl.sum(shape * sines, 0).to(tl.float32)
    splits = trees * SPLITS
    node = tl.zeros_like(tree)
    for _ in tl.static_range(DEPTH):
        at = tree * SPLITS + node
        first = _intensity(place_ptr, anchors_ptr, offsets_ptr, shape_ptr, at, splits, a, b, mask)
        second = _intensity(
            place_ptr, anchors_ptr + splits, offsets_ptr + 2 * splits, shape_ptr, at, splits, a, b,
            mask,
        )  # fmt: skip
        threshold = tl.load(thresholds_ptr + at, mask=mask, other=0.0)
        node = 2 * node + 1 + (first - second <= threshold).to(tl.int32)
    leaf = tree * (SPLITS + 1) + node - SPLITS
    tl.store(leaves_ptr + face * trees + tree, leaf, mask=mask)


@triton.jit(do_not_specialize=["trees"])
def _sum_kernel(
    shapes_ptr, leaves_ptr, values_ptr, out_ptr, trees,
    COORDINATES: tl.constexpr, BLOCK_COORDINATES: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Add each tree's leaf to the shape, one after the other."""
    face = tl.program_id(0)
    coordinate = tl.program_id(1) * BLOCK_COORDINATES + tl.arange(0, BLOCK_COORDINATES)
    mask = coordinate < COORDINATES
    total = tl.load(shapes_ptr + face * COORDINATES + coordinate, mask=mask, other=0.0)
    for start in range(0, trees, AT_ONCE):
        for index in tl.static_range(AT_ONCE):
            exists = start + index < trees
            leaf = tl.load(leaves_ptr + face * trees + start + index, mask=exists, other=0)
            value_ptrs = values_ptr + leaf * COORDINATES + coordinate
            total += tl.load(value_ptrs, mask=mask & exists, other=0.0)
    tl.store(out_ptr + face * COORDINATES + coordinate, total, mask=mask)


def run_level(
    places: Tensor,
    shapes: Tensor,
    fit: Tensor,
    anchors: Tensor,
    offsets: Tensor,
    thresholds: Tensor,
    values: Tensor,
) -> Tensor:
    """Run one level of the cascade of T trees of S splits.

    Args:
        places: the `PLACE` numbers of each face (N, 7) int64; photos are (3, H, W) uint8.
        shapes: (N, 2 P) float32, in boxes of (0, 0) to (1, 1).
        fit: the similarity from the initial shape is `shapes @ fit` (2 P, 2) float64.
        anchors: the points next to the first and the second pixel of splits (2, T, S) int32.
        offsets: x and y from there, in the initial shape (2, 2, T, S) float32.
        thresholds: (T, S) float32.
        values: what each leaf adds to the shape (T (S + 1), 2 P) float32.

    Returns:
        The next shapes (N, 2 P) float32.
    """
    (faces, coordinates), (trees, splits) = shapes.shape, thresholds.shape
    leaves = torch.empty(faces, trees, dtype=torch.int32, device=shapes.device)
    out = torch.empty_like(shapes)
    # Products are rounded before they are added, as PyTorch does.
    _leaf_kernel[faces, triton.cdiv(trees, _TREES)](
        places, shapes, fit, anchors, offsets, thresholds, leaves, trees,
        SPLITS=splits, DEPTH=(splits + 1).bit_length() - 1, COORDINATES=coordinates,
        PADDED=triton.next_power_of_2(coordinates), TREES=_TREES, PLACE=PLACE, num_warps=2,
        enable_fp_fusion=False,
    )  # fmt: skip
    _sum_kernel[faces, triton.cdiv(coordinates, _COORDINATES)](
        shapes, leaves, values, out, trees, COORDINATES=coordinates,
        BLOCK_COORDINATES=_COORDINATES, AT_ONCE=_TREES_AT_ONCE, num_warps=1,
    )  # fmt: skip
    return out
