"""The small levels of photos of many sizes as tensors of few shapes, which CUDA graphs need.

A photo lies in the upper left corner of a frame, a square of one of about twenty sizes. Which rows
and columns dlib blends for its levels stands in tables, so that every photo of a frame runs through
the same kernels.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from styleclip_server.engines.cuda.faces.resizing import (
    Axis,
    blend,
    column_coordinates,
    count_levels,
    row_coordinates,
)

# Long side of the first level that is searched for large faces: 11% of the photo's long side.
LARGE_FACES_LEVEL = 640
_ALIGNED = 4  # entries of a table to which its parts are aligned, since kernels depend on alignment


@dataclass(frozen=True)
class Frame:
    """The largest square photo whose first level within `LARGE_FACES_LEVEL` has a given number.

    Attributes:
        start: the number of that level.
        sides: of the levels, in pixels, from level 0 to the last that dlib searches.
    """

    start: int
    sides: tuple[int, ...]

    @property
    def photo_side(self) -> int:
        """The longest side of a photo, which is its height."""
        return (self.sides[0] - 1) // 2

    @property
    def searched(self) -> tuple[int, ...]:
        """The sides of the levels that are searched."""
        return self.sides[self.start :]

    @functools.cached_property
    def parts(self) -> list[slice]:
        """Where each level's rows and columns are in a table."""
        padded = [-(-side // _ALIGNED) * _ALIGNED for side in self.sides]
        ends = itertools.accumulate(padded, initial=0)
        return [slice(low, low + side) for low, side in zip(ends, self.sides, strict=False)]


@dataclass(frozen=True)
class LevelTables:
    """How the levels of photos are blended: tables of rows [0] and columns [1] of all levels.

    Attributes:
        first, second: which two are blended (..., 2, entries) int32.
        fraction: the weight of the second (..., 2, entries) float64.
        sizes: columns that are blended in single precision, height and width of each level
            (..., 3, levels) int32; 0 where dlib searches none.
    """

    first: Tensor
    second: Tensor
    fraction: Tensor
    sizes: Tensor

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.first, self.second, self.fraction, self.sizes


def join_tables(plans: Sequence[LevelTables], count: int) -> LevelTables:
    """Join the tables of photos of one frame to those of `count` photos, the last of them empty."""

    def join(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([*tensors, *[torch.zeros_like(tensors[0])] * (count - len(tensors))])

    return LevelTables(*map(join, zip(*(plan.tensors for plan in plans), strict=True)))


def frame_for(height: int, width: int) -> Frame:
    """Return the frame of a photo of this size."""
    side = max(2 * height + 1, 2 * width + 2)
    start = 0
    while side > LARGE_FACES_LEVEL:
        side = side * 5 // 6
        start += 1
    return _frame(start)


@functools.cache
def frame_of_levels(count: int) -> Frame:
    """Return the frame with so many levels, which no other one has."""
    return next(frame for frame in map(_frame, itertools.count()) if len(frame.sides) == count)


@functools.cache
def _frame(start: int) -> Frame:
    sides = [LARGE_FACES_LEVEL]
    for _ in range(start):
        sides.insert(0, (6 * sides[0] + 5) // 5)  # the largest side of which 5/6 is the next one
    while len(sides) < count_levels(sides[0], sides[0]):
        sides.append(sides[-1] * 5 // 6)
    return Frame(start, tuple(sides))


@functools.lru_cache(128)
def plan_levels(height: int, width: int, device: torch.device) -> LevelTables:
    """Plan the levels of a photo of this size in its frame."""
    frame = frame_for(height, width)
    entries = -(-frame.parts[-1].stop // _ALIGNED) * _ALIGNED
    indices = np.zeros((2, 2, entries), np.int32)
    fraction = np.zeros((2, entries), np.float64)
    sizes = np.zeros((3, len(frame.sides)), np.int32)
    old, new = (height, width), (2 * height + 1, 2 * width + 2)
    for level in range(count_levels(*new)):
        columns, singles = column_coordinates(old[1], new[1])
        for axis, coordinates in enumerate((row_coordinates(old[0], new[0]), columns)):
            part = slice(frame.parts[level].start, frame.parts[level].start + new[axis])
            first = np.floor(coordinates).astype(np.int32)
            indices[:, axis, part] = first, np.minimum(first + 1, old[axis] - 1)
            fraction[axis, part] = coordinates - first
        sizes[:, level] = singles, *new
        old, new = new, (new[0] * 5 // 6, new[1] * 5 // 6)
    return LevelTables(
        *(torch.from_numpy(table).to(device) for table in (*indices, fraction, sizes))
    )


@functools.lru_cache(16)
def plan_photos(
    sizes: tuple[tuple[int, int], ...], count: int, device: torch.device
) -> LevelTables:
    """Plan the levels of photos of one frame and of these sizes, padded to `count` photos."""
    return join_tables([plan_levels(*size, device) for size in sizes], count)


def list_places(photos: Sequence[Tensor], count: int) -> Tensor:
    """Return where photos, contiguous (3, H, W) uint8, are in the memory: height, width and address
    of each, 0 for those that `count` has beyond them (count, 3) int64."""
    places = [(*photo.shape[1:], photo.data_ptr()) for photo in photos]
    return torch.tensor(places + [(0, 0, 0)] * (count - len(photos)))


def draw_photos(photos: Sequence[Tensor], count: int, side: int) -> Tensor:
    """Draw photos (3, H, W) uint8 into frames (count, 3, side, side) on the CPU."""
    drawn = torch.zeros(count, 3, side, side, dtype=torch.uint8)
    for place, photo in zip(drawn, photos, strict=False):
        place[:, : photo.shape[1], : photo.shape[2]] = photo
    return drawn


def build_levels(frame: Frame, photos: Tensor, tables: LevelTables) -> list[Tensor]:
    """Build the levels of photos that are searched.

    Args:
        photos: (N, 3, side, side) uint8 RGB.
        tables: of N photos.

    Returns:
        For each level (N, 3, side, side) uint8; `tables.sizes` says which part is the photo's.
    """
    level, searched = photos, []
    for number, part in enumerate(frame.parts):
        rows, columns = (
            Axis(
                tables.first[:, axis, part],
                tables.second[:, axis, part],
                tables.fraction[:, axis, part],
                tables.sizes[:, 0, number],
            )
            for axis in (0, 1)
        )
        level = blend(level, rows, columns)
        if number >= frame.start:
            searched.append(level)
    return searched
