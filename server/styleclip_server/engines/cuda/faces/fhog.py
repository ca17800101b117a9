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
from numpy.typing import NDArray
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
class Layout:
    """Where images of given sizes are in a canvas.

    Attributes:
        height, width: of the canvas in blocks of 8 pixels.
        slots: one for each image.
        image_of_cell: the image that each cell with features belongs to, -1 if to none
            (H / 8 + 1, W / 8 + 1).
        pixel_image, pixel_y, pixel_x: the image that each pixel belongs to, 0 if to none, and its
            row and column there, -1 if to none (H, W) int32.
        cell_image, cell_y, cell_x: the same for cells that have features (H / 8 + 1, W / 8 + 1).
    """

    height: int
    width: int
    slots: tuple[Slot, ...]
    image_of_cell: NDArray[np.int32]
    pixel_image: Tensor
    pixel_y: Tensor
    pixel_x: Tensor
    cell_image: Tensor
    cell_y: Tensor
    cell_x: Tensor

    @functools.cached_property
    def corners(self) -> NDArray[np.int64]:
        """The first row and column of cells with features of each image (N, 2)."""
        return np.array([(slot.top, slot.left) for slot in self.slots])


def extract(
    images: Sequence[Tensor], layout: Layout, sizes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the features of images (3, H, W) uint8 RGB of any sizes.

    Args:
        layout: of images of these sizes, from `lay_out`.
        sizes: height and width of the upper left parts that are images, which may be empty (N, 2)
            int32; None: the images have no other parts.

    Returns:
        The features of all images in one canvas (31, cells, cells) float32, 0 outside the images,
        and which cells belong to an image (cells, cells) bool.
    """
    device = images[0].device
    if sizes is None:
        shapes = [image.shape[1:] for image in images]
        sizes = torch.tensor(shapes, dtype=torch.int32, device=device)
    canvas, limits = draw_canvas(images, layout), list_limits(sizes)
    if canvas.is_cuda:
        from styleclip_server.engines.cuda.kernels.faces import fhog as kernels

        pixels = layout.pixel_image, layout.pixel_y, layout.pixel_x
        cells = layout.cell_image, layout.cell_y, layout.cell_x
        return kernels.extract(canvas, pixels, cells, limits, direction_table(device))
    visible, later, mask = _outline(layout, limits)
    direction, magnitude = _gradients(canvas, later)
    histograms = _histograms(direction, magnitude * visible)
    return _features(histograms) * mask, mask


def draw_canvas(images: Sequence[Tensor], layout: Layout) -> Tensor:
    """Draw images (3, H, W) uint8 into a canvas (3, height, width), which is 0 elsewhere."""
    device = images[0].device
    canvas = torch.zeros(
        3, layout.height * CELL, layout.width * CELL, dtype=torch.uint8, device=device
    )
    for image, slot in zip(images, layout.slots, strict=True):
        # A cell is centered on the corner of four blocks: an image starts within a block.
        top, left = (slot.top - 2) * CELL + CELL // 2, (slot.left - 2) * CELL + CELL // 2
        part = image[:, : (slot.height + 2) * CELL, : (slot.width + 2) * CELL]
        if slot.height:
            canvas[:, top : top + part.shape[1], left : left + part.shape[2]] = part
    return canvas


def list_limits(sizes: Tensor) -> Tensor:
    """Return what of images of these sizes (N, 2) dlib uses (N, 5) int32.

    The last row and column of pixels, which have no gradient; the last column that it computes
    together with others; and the rows and columns of cells that have features.
    """
    cells = (sizes + 4) // CELL
    empty = (cells.amin(1, keepdim=True) <= 2).to(torch.int32)
    last = (torch.minimum(cells * CELL, sizes) - 1) * (1 - empty)
    at_once = (last[:, 1:] - 1) // _SIMD * _SIMD
    return torch.cat([last, at_once, (cells - 2) * (1 - empty)], 1).to(torch.int32)


def _outline(layout: Layout, limits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return what of a canvas belongs to images of these `list_limits`.

    Returns:
        Where dlib computes a gradient (H, W) bool; where it prefers the later of two equally strong
        color channels (H, W) int32; and which cells have features.
    """
    last_y, last_x, at_once, rows, columns = limits.unbind(1)
    y, x, image = layout.pixel_y, layout.pixel_x, layout.pixel_image
    visible = (y >= 1) & (y < last_y[image]) & (x >= 1) & (x < last_x[image])
    later = (visible & (x <= at_once[image])).to(torch.int32)
    y, x, image = layout.cell_y, layout.cell_x, layout.cell_image
    mask = (y >= 0) & (y < rows[image]) & (x >= 0) & (x < columns[image])
    return visible, later, mask


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
    direction = direction_table(canvas.device)[code]
    border = (1, 1, 1, 1)
    return functional.pad(direction, border), functional.pad(length.float().sqrt(), border)


@functools.lru_cache(16)
def direction_table(device: torch.device) -> Tensor:
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


@functools.lru_cache(64)
def lay_out(sizes: tuple[tuple[int, int], ...], device: torch.device) -> Layout:
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
    pixels = _empty_map(canvas_height * CELL, canvas_width * CELL)
    features = _empty_map(canvas_height + 1, canvas_width + 1)
    slots = []
    for index, ((height, width), (rows, columns)) in enumerate(zip(sizes, cells, strict=True)):
        top, left = places[index]
        empty = min(rows, columns) <= 2
        slot = Slot(top + 2, left + 2, 0 if empty else rows - 2, 0 if empty else columns - 2)
        slots.append(slot)
        if empty:
            continue
        _draw(features, index, (slot.top, slot.left), (slot.height, slot.width))
        corner = (top * CELL + CELL // 2, left * CELL + CELL // 2)
        _draw(pixels, index, corner, (min(rows * CELL, height), min(columns * CELL, width)))
    image_of_cell = np.where(features[1] < 0, -1, features[0])
    pixel_maps = (torch.from_numpy(array).to(device) for array in pixels)
    cell_maps = (torch.from_numpy(array).to(device) for array in features)
    return Layout(canvas_height, canvas_width, tuple(slots), image_of_cell, *pixel_maps, *cell_maps)


def _empty_map(height: int, width: int) -> NDArray[np.int32]:
    """Return image, row and column (3, H, W) of places that belong to no image."""
    places = np.full((3, height, width), -1, np.int32)
    places[0] = 0
    return places


def _draw(
    places: NDArray[np.int32], image: int, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    """Write an image into a map of `_empty_map`."""
    rows, columns = (slice(low, low + side) for low, side in zip(corner, size, strict=True))
    places[0, rows, columns] = image
    places[1:, rows, columns] = np.indices(size)
