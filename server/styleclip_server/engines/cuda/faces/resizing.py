"""dlib's bilinear resizing of RGB images, and the pyramid that its face detector searches.

The results are equal to dlib's (`resize_image`, http://dlib.net/imaging.html#resize_image) to the
bit, since a level of one in a flat area is a gradient like any other. dlib accumulates coordinates
step by step: in single precision for most columns, in groups of four, and in double precision for
rows and for the last columns. Values are truncated.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MIN_SIDE = 64  # pixels; dlib's pyramid ends there


@dataclass(frozen=True)
class Axis:
    """Which two rows or columns are blended into each new one.

    Attributes:
        first, second: their indices (N,) int64.
        fraction: the weight of the second (N,) float64.
        singles: how many columns, from the left, dlib blends in single precision.
    """

    first: Tensor
    second: Tensor
    fraction: Tensor
    singles: int = 0


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize images (..., H, W) uint8 to (..., height, width) as dlib does."""
    rows = plan_rows(image.shape[-2], height, image.device)
    columns = plan_columns(image.shape[-1], width, image.device)
    if image.is_cuda:
        from styleclip_server.engines.cuda.kernels.faces import resize as kernel

        return kernel.resize(
            image,
            (rows.first, rows.second, rows.fraction),
            (columns.first, columns.second, columns.fraction),
            columns.singles,
        )
    upper, lower = image.index_select(-2, rows.first), image.index_select(-2, rows.second)
    corners = [
        row.index_select(-1, index)
        for row in (upper, lower)
        for index in (columns.first, columns.second)
    ]
    down, right, singles = rows.fraction[:, None], columns.fraction, columns.singles
    return torch.cat(
        [
            _blend_in_single([corner[..., :singles] for corner in corners], down, right[:singles]),
            _blend_in_double([corner[..., singles:] for corner in corners], down, right[singles:]),
        ],
        -1,
    )


def _blend_in_single(corners: list[Tensor], down: Tensor, right: Tensor) -> Tensor:
    up, down, right = (1 - down).float(), down.float(), right.float()
    left = 1 - right
    blended = (up * left) * corners[0]
    for weight, corner in zip((up * right, down * left, down * right), corners[1:], strict=True):
        blended += weight * corner
    return blended.to(torch.uint8)


def _blend_in_double(corners: list[Tensor], down: Tensor, right: Tensor) -> Tensor:
    above = (1 - right) * corners[0] + right * corners[1]
    below = (1 - right) * corners[2] + right * corners[3]
    return ((1 - down) * above + down * below).to(torch.uint8)


@functools.lru_cache(4096)
def plan_rows(old: int, new: int, device: torch.device) -> Axis:
    """Return which rows are blended when `old` rows become `new`."""
    step = (old - 1) / max(new - 1, 1)
    return _plan(np.cumsum(np.r_[-step, np.full(new, step)])[1:], old, 0, device)


@functools.lru_cache(4096)
def plan_columns(old: int, new: int, device: torch.device) -> Axis:
    """Return which columns are blended when `old` columns become `new`."""
    step = (old - 1) / max(new - 1, 1)
    start = np.array([-4 * step, -4 * step + step, -4 * step + 2 * step, -4 * step + 3 * step])
    steps = np.full((new // 4 + 2, 4), np.float32(4 * step))
    groups = np.cumsum(np.vstack([np.float32(start), steps]), axis=0, dtype=np.float32)[1:]
    singles = min(4 * int(np.argmax(groups[:, 3].astype(int) + 1 >= old)), new)
    rest = np.cumsum(np.r_[-step + singles * step, np.full(new - singles, step)])[1:]
    coordinates = np.r_[groups.ravel()[:singles].astype(np.float64), rest]
    return _plan(coordinates, old, singles, device)


def _plan(coordinates: NDArray[np.float64], old: int, singles: int, device: torch.device) -> Axis:
    first = np.floor(coordinates).astype(np.int64)
    return Axis(
        torch.from_numpy(first).to(device),
        torch.from_numpy(np.minimum(first + 1, old - 1)).to(device),
        torch.from_numpy(coordinates - first).to(device),
        singles,
    )


def build_pyramid(photos: Tensor, longest: int | None = None) -> tuple[int, list[Tensor]]:
    """Build the levels that dlib's detector searches after one upsampling.

    Level 0 is the photo upsampled by two; each further level has 5/6 of the previous one's sides.

    Args:
        photos: (..., H, W) uint8.
        longest: leave out levels whose long side is larger.

    Returns:
        The number of the first level that is not left out, and the levels from it on.
    """
    height, width = photos.shape[-2:]
    level = resize(photos, 2 * height + 1, 2 * width + 2)
    left_out, levels = 0, []
    for _ in range(_count_levels(2 * height + 1, 2 * width + 2)):
        if longest and max(level.shape[-2:]) > longest:
            left_out += 1
        else:
            levels.append(level)
        level = resize(level, level.shape[-2] * 5 // 6, level.shape[-1] * 5 // 6)
    return left_out, levels


def _count_levels(height: int, width: int) -> int:
    """Return how many levels dlib searches in an image of this size."""
    count = 0
    while count == 0 or min(width, height) >= _MIN_SIDE:
        width, height = (int(np.floor((side - 1.3) * 5 / 6 + 0.5)) + 1 for side in (width, height))
        count += 1
    return count
