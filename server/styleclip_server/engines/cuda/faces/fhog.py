"""Histograms of oriented gradients as dlib computes them, for many images at once.

Felzenszwalb et al., Object Detection with Discriminatively Trained Part Based Models (TPAMI 2010),
with dlib's boundaries and order of preference (http://dlib.net/imaging.html#extract_fhog_features).
The images are placed into one canvas, so that their number does not change the number of kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

CELL = 8  # pixels of a cell's sides
CHANNELS = 31  # 18 directions, 9 orientations without sign, 4 gradient energies
_DIRECTIONS = 18
_COSINES = (1.0, 0.9397, 0.7660, 0.5, 0.1736, -0.1736, -0.5, -0.7660, -0.9397)
_SINES = (0.0, 0.3420, 0.6428, 0.8660, 0.9848, 0.9848, 0.8660, 0.6428, 0.3420)
_LEVELS = 255
_SIDE = 2 * _LEVELS + 1  # the number of values of one difference of pixels
_SIMD = 8  # columns that dlib computes at once
_EPSILON = 1e-4
# Blocks between two images: a window of 10 cells that is centered in one image reaches 5 cells
# beyond its features, and features lie one cell inside an image.
_GAP = 2


@dataclass(frozen=True)
class Slot:
    """The features of an image in the canvas: rows and columns in cells.

    Attributes:
        top, left: the first cell that has features.
        height, width: the number of cells that have features; 0 if the image is too small.
    """

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class _Layout:
    """Where images of given sizes are in a canvas.

    Attributes:
        height, width: of the canvas in blocks of 8 pixels.
        slots: one for each image.
        visible: (H, W) float32: 1 where dlib computes a gradient.
        later: (H, W) int32: 1 where dlib prefers the later of two equally strong color channels.
        mask: (H / 8 + 1, W / 8 + 1) bool: the cells that have features.
    """

    height: int
    width: int
    slots: tuple[Slot, ...]
    visible: Tensor
    later: Tensor
    mask: Tensor


def extract(images: Sequence[Tensor]) -> tuple[Tensor, Tensor, tuple[Slot, ...]]:
    """Compute the features of images (3, H, W) uint8 RGB of any sizes.

    Returns:
        The features of all images in one canvas (31, cells, cells) float32, 0 outside the images;
        which cells belong to an image (cells, cells) bool; and where each image is.
    """
    device = images[0].device
    layout = _layout(tuple((image.shape[1], image.shape[2]) for image in images), device)
    canvas = torch.zeros(
        3, layout.height * CELL, layout.width * CELL, dtype=torch.uint8, device=device
    )
    for image, slot in zip(images, layout.slots, strict=True):
        # A cell is centered on the corner of four blocks: an image starts within a block.
        top, left = (slot.top - 2) * CELL + CELL // 2, (slot.left - 2) * CELL + CELL // 2
        part = image[:, : (slot.height + 2) * CELL, : (slot.width + 2) * CELL]
        if slot.height:
            canvas[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    direction, magnitude = _gradients(canvas, layout.later)
    histograms = _histograms(direction, magnitude * layout.visible)
    return _features(histograms) * layout.mask, layout.mask, layout.slots


def _gradients(canvas: Tensor, later: Tensor) -> tuple[Tensor, Tensor]:
    """Return the direction (H, W) uint8 and magnitude (H, W) of each pixel's gradient.

    It is that of the color channel in which it is largest.
    """
    pixels = canvas.int()
    x = pixels[:, 1:-1, 2:] - pixels[:, 1:-1, :-2]
    y = pixels[:, 2:, 1:-1] - pixels[:, :-2, 1:-1]
    lengths = x * x + y * y
    codes = (x + _LEVELS) * _SIDE + (y + _LEVELS)
    length, code = lengths[0], codes[0]
    for channel in (1, 2):
        wins = 2 * lengths[channel] + later[1:-1, 1:-1] > 2 * length
        length = torch.where(wins, lengths[channel], length)
        code = torch.where(wins, codes[channel], code)
    direction = _direction_table(canvas.device)[code]
    border = (1, 1, 1, 1)
    return functional.pad(direction, border), functional.pad(length.float().sqrt(), border)


@functools.lru_cache(16)
def _direction_table(device: torch.device) -> Tensor:
    """Return the direction 0 to 17 of every gradient, in dlib's single precision."""
    x, y = np.mgrid[-_LEVELS : _LEVELS + 1, -_LEVELS : _LEVELS + 1].astype(np.float32)
    best, direction = np.zeros_like(x), np.zeros(x.shape, np.uint8)
    for index, (cosine, sine) in enumerate(zip(_COSINES, _SINES, strict=True)):
        product = x * np.float32(cosine) + y * np.float32(sine)
        for sign, value in ((1, index), (-1, index + _DIRECTIONS // 2)):
            better = sign * product > best
            best = np.where(better, sign * product, best)
            direction[better] = value
    return torch.from_numpy(direction.ravel()).to(device)


def _histograms(direction: Tensor, magnitude: Tensor) -> Tensor:
    """Let each pixel vote for its direction in the four nearest cells, bilinearly.

    Returns:
        (H / 8 + 1, W / 8 + 1, 18): cell (y, x) is centered on the corner of the blocks of 8 x 8
        pixels (y - 1, x - 1) and (y, x).
    """
    rows, columns = (side // CELL for side in direction.shape)
    in_blocks = (
        tensor.reshape(rows, CELL, columns, CELL)
        .transpose(1, 2)
        .reshape(rows, columns, 1, CELL * CELL)
        for tensor in (direction, magnitude)
    )
    directions, magnitudes = in_blocks
    index = torch.arange(_DIRECTIONS, dtype=torch.uint8, device=direction.device)
    votes = (directions == index[:, None]) * magnitudes
    corners = votes @ _corner_weights(direction.device)
    histograms = corners.new_zeros(rows + 1, columns + 1, _DIRECTIONS)
    histograms[:-1, :-1] += corners[..., 0]
    histograms[:-1, 1:] += corners[..., 1]
    histograms[1:, :-1] += corners[..., 2]
    histograms[1:, 1:] += corners[..., 3]
    return histograms


@functools.lru_cache(16)
def _corner_weights(device: torch.device) -> Tensor:
    """Return the votes (64, 4) of a block's pixels for the cells at its four corners."""
    second = (np.arange(CELL) + 0.5) / CELL
    pairs = np.stack([1 - second, second], -1).astype(np.float32)
    weights = np.einsum("yr,xc->yxrc", pairs, pairs).reshape(CELL * CELL, 4)
    return torch.from_numpy(weights).to(device)


def _features(histograms: Tensor) -> Tensor:
    """Normalize histograms (H, W, 18) by four groups of neighbors, to features (31, H, W)."""
    half = _DIRECTIONS // 2
    unsigned = histograms[..., :half] + histograms[..., half:]
    energy = functional.pad((unsigned * unsigned).sum(-1), (1, 1, 1, 1))
    row_pairs = energy[:, :-1] + energy[:, 1:]
    squares = row_pairs[:-1] + row_pairs[1:]  # (H + 1, W + 1)
    groups = torch.stack(
        [squares[1:, 1:], squares[:-1, 1:], squares[1:, :-1], squares[:-1, :-1]], -1
    )
    limits = 0.2 * (groups + _EPSILON).sqrt()
    scales = (0.1 / limits).unsqueeze(-2)
    limits = limits.unsqueeze(-2)
    signed = torch.minimum(histograms.unsqueeze(-1), limits) * scales  # (H, W, 18, 4)
    energies = signed.sum(-2) * (2 * 0.2357)
    merged = torch.minimum(unsigned.unsqueeze(-1), limits) * scales
    return torch.cat([signed.sum(-1), merged.sum(-1), energies], -1).permute(2, 0, 1)


@functools.lru_cache(256)
def _layout(sizes: tuple[tuple[int, int], ...], device: torch.device) -> _Layout:
    """Place images of sizes (height, width) on shelves, the highest first."""
    cells = [((height + 4) // CELL, (width + 4) // CELL) for height, width in sizes]
    blocks = [(rows + 1 + _GAP, columns + 1 + _GAP) for rows, columns in cells]
    canvas_width = max(columns for _, columns in blocks)
    places: dict[int, tuple[int, int]] = {}
    shelf, top, left = 0, 0, canvas_width
    for index in sorted(range(len(sizes)), key=lambda index: -blocks[index][0]):
        if left + blocks[index][1] > canvas_width:
            top, shelf, left = top + shelf, blocks[index][0], 0
        places[index] = (top, left)
        left += blocks[index][1]
    canvas_height = top + shelf
    visible = np.zeros((canvas_height * CELL, canvas_width * CELL), np.float32)
    later = np.zeros(visible.shape, np.int32)
    mask = np.zeros((canvas_height + 1, canvas_width + 1), np.bool_)
    slots = []
    for index, ((height, width), (rows, columns)) in enumerate(zip(sizes, cells, strict=True)):
        top, left = places[index]
        empty = min(rows, columns) <= 2
        slot = Slot(top + 2, left + 2, 0 if empty else rows - 2, 0 if empty else columns - 2)
        slots.append(slot)
        if empty:
            continue
        mask[slot.top : slot.top + slot.height, slot.left : slot.left + slot.width] = True
        last_row, last_column = (min(rows * CELL, height) - 1, min(columns * CELL, width) - 1)
        y, x = top * CELL + CELL // 2, left * CELL + CELL // 2
        visible[y + 1 : y + last_row, x + 1 : x + last_column] = 1
        at_once = (last_column - 1) // _SIMD * _SIMD
        later[y + 1 : y + last_row, x + 1 : x + 1 + at_once] = 1
    tensors = (torch.from_numpy(array).to(device) for array in (visible, later, mask))
    return _Layout(canvas_height, canvas_width, tuple(slots), *tensors)
