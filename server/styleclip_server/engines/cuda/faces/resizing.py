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
    """Which two rows or columns are blended into each new one, for all images or for each of P.

    Attributes:
        first, second: their indices (N,) or (P, N) int32.
        fraction: the weight of the second (N,) or (P, N) float64.
        singles: how many columns, from the left, dlib blends in single precision, () or (P,) int32;
            unused for rows.
    """

    first: Tensor
    second: Tensor
    fraction: Tensor
    singles: Tensor

    def of_image(self, index: int) -> Axis:
        """Return the axis of one of P images."""
        return Axis(
            self.first[index], self.second[index], self.fraction[index], self.singles[index]
        )


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Resize images (..., H, W) uint8 to (..., height, width) as dlib does."""
    rows = plan_rows(image.shape[-2], height, image.device)
    columns = plan_columns(image.shape[-1], width, image.device)
    return blend(image, rows, columns)


def blend(image: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Blend pairs of rows and columns of images into new ones.

    Args:
        image: (..., H, W) uint8, or (P, C, H, W) for axes of P images each.

    Returns:
        (..., rows, columns) uint8.
    """
    if image.is_cuda:
        from styleclip_server.engines.cuda.kernels.faces import resize as kernel

        return kernel.resize(
            image,
            (rows.first, rows.second, rows.fraction),
            (columns.first, columns.second, columns.fraction),
            columns.singles,
        )
    if rows.first.dim() == 1:
        return _blend_one(image, rows, columns)
    return torch.stack(
        [
            _blend_one(each, rows.of_image(index), columns.of_image(index))
            for index, each in enumerate(image)
        ]
    )


def _blend_one(image: Tensor, rows: Axis, columns: Axis) -> Tensor:
    upper, lower = image.index_select(-2, rows.first), image.index_select(-2, rows.second)
    corners = [
        row.index_select(-1, index)
        for row in (upper, lower)
        for index in (columns.first, columns.second)
    ]
    down, right, singles = rows.fraction[:, None], columns.fraction, int(columns.singles)
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
    return _to_axis(old, row_coordinates(old, new), 0, device)


@functools.lru_cache(4096)
def plan_columns(old: int, new: int, device: torch.device) -> Axis:
    """Return which columns are blended when `old` columns become `new`."""
    return _to_axis(old, *column_coordinates(old, new), device)


def row_coordinates(old: int, new: int) -> NDArray[np.float64]:
    """Return where in `old` rows each of `new` rows is taken (new,)."""
    step = (old - 1) / max(new - 1, 1)
    return np.cumsum(np.r_[-step, np.full(new, step)])[1:]


def column_coordinates(old: int, new: int) -> tuple[NDArray[np.float64], int]:
    """Return where in `old` columns each of `new` columns is taken (new,), and how many of them,
    from the left, dlib blends in single precision."""
    step = (old - 1) / max(new - 1, 1)
    start = np.array([-4 * step, -4 * step + step, -4 * step + 2 * step, -4 * step + 3 * step])
    steps = np.full((new // 4 + 2, 4), np.float32(4 * step))
    groups = np.cumsum(np.vstack([np.float32(start), steps]), axis=0, dtype=np.float32)[1:]
    singles = min(4 * int(np.argmax(groups[:, 3].astype(int) + 1 >= old)), new)
    rest = np.cumsum(np.r_[-step + singles * step, np.full(new - singles, step)])[1:]
    return np.r_[groups.ravel()[:singles].astype(np.float64), rest], singles


def _to_axis(
    old: int, coordinates: NDArray[np.float64], singles: int, device: torch.device
) -> Axis:
    first = np.floor(coordinates).astype(np.int32)
    return Axis(
        torch.from_numpy(first).to(device),
        torch.from_numpy(np.minimum(first + 1, old - 1)).to(device),
        torch.from_numpy(coordinates - first).to(device),
        torch.tensor(singles, dtype=torch.int32, device=device),
    )


def build_pyramid(photos: Tensor) -> list[Tensor]:
    """Build the levels that dlib's detector searches after one upsampling.

    Level 0 is the photo upsampled by two; each further level has 5/6 of the previous one's sides.

    Args:
        photos: (..., H, W) uint8.
    """
    height, width = photos.shape[-2:]
    levels = [resize(photos, 2 * height + 1, 2 * width + 2)]
    while len(levels) < count_levels(2 * height + 1, 2 * width + 2):
        levels.append(_build_next_level(levels[-1]))
    return levels


def build_level(photos: Tensor, number: int) -> Tensor:
    """Build one level of the pyramid of photos (..., H, W) uint8."""
    level = resize(photos, 2 * photos.shape[-2] + 1, 2 * photos.shape[-1] + 2)
    for _ in range(number):
        level = _build_next_level(level)
    return level


def _build_next_level(level: Tensor) -> Tensor:
    return resize(level, level.shape[-2] * 5 // 6, level.shape[-1] * 5 // 6)


def count_levels(height: int, width: int) -> int:
    """Return how many levels dlib searches in an image of this size."""
    count = 0
    while count == 0 or min(width, height) >= _MIN_SIDE:
        width, height = (int(np.floor((side - 1.3) * 5 / 6 + 0.5)) + 1 for side in (width, height))
        count += 1
    return count
