"""Linear filters on a canvas of features, and the windows whose scores reach a limit."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_GROUP = 5  # filters in a program, as many as dlib's face detector has
_CELLS = 256  # in a program: four in a thread, for which weights are loaded once


@triton.jit
def _note(score, limit, window, is_centered, count_ptr, places_ptr, scores_ptr, capacity):
    """Append the windows whose score exceeds the limit to those that were found."""
    found = is_centered & (score > limit)
    if tl.max(found.to(tl.int32), 0) > 0:
        at = tl.atomic_add(count_ptr + tl.zeros_like(window), 1, mask=found)
        kept = found & (at < capacity)
        tl.store(places_ptr + at, window, mask=kept)
        tl.store(scores_ptr + at, score, mask=kept)


@triton.jit(do_not_specialize=["down", "across", "capacity"])
def _filter_kernel(
    features_ptr, mask_ptr, taps_ptr, limits_ptr, count_ptr, places_ptr, scores_ptr,
    down, across, capacity, SIDE: tl.constexpr, CHANNELS: tl.constexpr, CELLS: tl.constexpr,
):  # fmt: skip
    """Sum up five filters around each cell, and note the sums that exceed their limits."""
    cells = down * across
    cell = tl.program_id(0) * CELLS + tl.arange(0, CELLS)
    group = tl.program_id(1)
    is_centered = tl.load(mask_ptr + cell, mask=cell < cells, other=0) != 0
    if tl.max(is_centered.to(tl.int32), 0) > 0:
        row, column = cell // across, cell % across
        zero = tl.full((CELLS,), 0.0, tl.float32)
        sum_0, sum_1, sum_2, sum_3, sum_4 = zero, zero, zero, zero, zero
        for tap in range(SIDE * SIDE):
            y = row + tap // SIDE - (SIDE // 2 - 1)
            x = column + tap % SIDE - (SIDE // 2 - 1)
            inside = is_centered & (y >= 0) & (y < down) & (x >= 0) & (x < across)
            at = features_ptr + y * across + x
            weights_ptr = taps_ptr + (group * SIDE * SIDE + tap) * CHANNELS * 5
            # Summed up by themselves, since a sum of few numbers rounds less.
            tap_0, tap_1, tap_2, tap_3, tap_4 = zero, zero, zero, zero, zero
            for channel in tl.static_range(CHANNELS):
                value = tl.load(at + channel * cells, mask=inside, other=0.0)
                tap_0 += value * tl.load(weights_ptr + channel * 5)
                tap_1 += value * tl.load(weights_ptr + channel * 5 + 1)
                tap_2 += value * tl.load(weights_ptr + channel * 5 + 2)
                tap_3 += value * tl.load(weights_ptr + channel * 5 + 3)
                tap_4 += value * tl.load(weights_ptr + channel * 5 + 4)
            sum_0 += tap_0
            sum_1 += tap_1
            sum_2 += tap_2
            sum_3 += tap_3
            sum_4 += tap_4
        for index in tl.static_range(5):
            score = sum_0
            if index == 1:
                score = sum_1
            elif index == 2:
                score = sum_2
            elif index == 3:
                score = sum_3
            elif index == 4:
                score = sum_4
            limit = tl.load(limits_ptr + group * 5 + index)
            window = (group * 5 + index) * cells + cell
            _note(score, limit, window, is_centered, count_ptr, places_ptr, scores_ptr, capacity)


def order_taps(filters: Tensor) -> Tensor:
    """Order filters (N, 31, side, side) as `find_windows` reads them: groups of five, in each of
    them rows, columns, channels and filters."""
    missing = -len(filters) % _GROUP
    padded = torch.cat([filters, filters.new_zeros(missing, *filters.shape[1:])])
    groups = padded.reshape(-1, _GROUP, *filters.shape[1:])
    return groups.permute(0, 3, 4, 2, 1).contiguous()


def order_limits(limits: Tensor) -> Tensor:
    """Pad the limits (N,) float32 of filters to those of whole groups, which none exceeds."""
    missing = -len(limits) % _GROUP
    return torch.cat([limits, limits.new_full((missing,), torch.inf)])


def find_windows(
    features: Tensor, mask: Tensor, taps: Tensor, limits: Tensor, capacity: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Find the windows in which a filter's response exceeds its limit.

    Args:
        features: (31, H, W) float32.
        mask: the cells on which windows are centered (H, W) bool.
        taps, limits: from `order_taps` and `order_limits`.
        capacity: the most windows that are returned.

    Returns:
        Their number (1,) int32, which may exceed the capacity; their places in (filters, H, W), in
        any order (capacity,) int32; and the responses there (capacity,) float32.
    """
    groups, side = taps.shape[:2]
    down, across = mask.shape
    count = torch.zeros(1, dtype=torch.int32, device=features.device)
    places = torch.empty(capacity, dtype=torch.int32, device=features.device)
    scores = torch.empty(capacity, device=features.device)
    _filter_kernel[triton.cdiv(down * across, _CELLS), groups](
        features, mask.view(torch.uint8), taps, limits, count, places, scores, down, across,
        capacity, SIDE=side, CHANNELS=len(features), CELLS=_CELLS, num_warps=2,
    )  # fmt: skip
    return count, places, scores
