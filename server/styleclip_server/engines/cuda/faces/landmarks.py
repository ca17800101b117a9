"""dlib's landmark predictor on any device, for a batch of faces.

An ensemble of regression trees (Kazemi and Sullivan, One Millisecond Face Alignment with an
Ensemble of Regression Trees, CVPR 2014). All trees of a level of the cascade run at once. Shapes
are added in dlib's order and precision, so that the points are equal to dlib's. On a GPU the
cascade is a CUDA graph of two kernels a level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from styleclip_server.engines.cuda.cuda_graphs import Graphed
from styleclip_server.pipeline.dlib_files import DlibReader, NotADlibModel, to_floats
from styleclip_server.pipeline.image_pyramid import Box

_MAX_POINTS = 1000
_MAX_LEVELS = 1000
_MAX_TREES = 100_000
_MAX_SPLITS = (1 << 12) - 1
_MAX_PIXELS = 100_000


@dataclass(frozen=True)
class Forest:
    """One level of the cascade: T trees of S splits, which compare K pixels.

    Attributes:
        first, second: the two pixels that a split compares (T, S) int64.
        thresholds: (T, S) float32: a larger difference goes left.
        leaves: what each leaf adds to the shape (T, S + 1, 2 P) float32.
        anchors: the point of the shape that each pixel is next to (K,) int64.
        offsets: from that point, in the initial shape (K, 2) float32.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    thresholds: NDArray[np.float32]
    leaves: NDArray[np.float32]
    anchors: NDArray[np.int64]
    offsets: NDArray[np.float32]


@dataclass(frozen=True)
class LandmarkParameters:
    """A landmark model: the initial shape (2 P,), in a box of (0, 0) to (1, 1), and the cascade."""

    initial_shape: NDArray[np.float32]
    forests: list[Forest]


def read_model(path: Path) -> LandmarkParameters:
    """Read a model of dlib's `shape_predictor`, such as shape_predictor_68_face_landmarks.dat.

    Raises:
        NotADlibModel: the file is no such model.
    """
    reader = DlibReader(np.memmap(path, np.uint8, "r"))
    reader.expect(1)
    initial_shape = reader.column(2 * _MAX_POINTS).astype(np.float32)
    levels = range(reader.integer(_MAX_LEVELS))
    trees = [_read_trees(reader, len(initial_shape)) for _ in levels]
    reader.expect(len(levels))
    anchors = [reader.integers(reader.integer(_MAX_PIXELS)) for _ in levels]
    reader.expect(len(levels))
    offsets = [reader.floats(2 * reader.integer(_MAX_PIXELS)).reshape(-1, 2) for _ in levels]
    reader.end()
    forests = [
        Forest(*parts, anchor, offset.astype(np.float32))
        for parts, anchor, offset in zip(trees, anchors, offsets, strict=True)
    ]
    for forest in forests:
        pixels = len(forest.offsets)
        if len(forest.anchors) != pixels or not (
            _within(forest.first, pixels)
            and _within(forest.second, pixels)
            and _within(forest.anchors, len(initial_shape) // 2)
        ):
            raise NotADlibModel("an index out of range")
    return LandmarkParameters(initial_shape, forests)


def _read_trees(
    reader: DlibReader, coordinates: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.float32]]:
    """Read the trees of a level, which all have the same number of splits."""
    count = reader.integer(_MAX_TREES)
    splits = reader.peek(_MAX_SPLITS)
    if count == 0 or splits & (splits + 1):
        raise NotADlibModel("a tree whose levels are not all full")
    # Its length, two indices and a threshold per split; its length, a matrix per leaf.
    leaf = 2 + 2 * coordinates
    size = 1 + 4 * splits + 1 + (splits + 1) * leaf
    numbers = reader.integers(count * size).reshape(count, size)
    lengths = numbers[:, [0, 1 + 4 * splits]]
    nodes = numbers[:, 1 : 1 + 4 * splits].reshape(count, splits, 4)
    leaves = numbers[:, 2 + 4 * splits :].reshape(count, splits + 1, leaf)
    if (lengths != (splits, splits + 1)).any() or (leaves[..., :2] != (-coordinates, -1)).any():
        raise NotADlibModel("trees of different sizes")
    values = to_floats(leaves[..., 2:].reshape(count, splits + 1, coordinates, 2))
    return (
        np.ascontiguousarray(nodes[..., 0]),
        np.ascontiguousarray(nodes[..., 1]),
        to_floats(nodes[..., 2:]).astype(np.float32),
        values.astype(np.float32),
    )


def _within(indices: NDArray[np.int64], length: int) -> bool:
    return bool((indices >= 0).all() and (indices < length).all())


class FaceLandmarks:
    """Predicts the landmarks of faces.

    Args:
        model: from `read_model`.
    """

    def __init__(self, model: LandmarkParameters, device: torch.device) -> None:
        self._initial = torch.from_numpy(model.initial_shape).to(device)
        self._cascade = [_Level(forest, device) for forest in model.forests]
        # The least-squares similarity from the initial shape to another is linear in the latter
        # (Umeyama, TPAMI 1991): its rotation and scale are [[a, -b], [b, a]], (a, b) = shape @ fit.
        points = self._initial.double().reshape(-1, 2)
        x, y = (points - points.mean(0)).unbind(-1)
        columns = [torch.stack([x, y], -1).reshape(-1), torch.stack([-y, x], -1).reshape(-1)]
        self._fit = torch.stack(columns, -1) / (x * x + y * y).sum()

        self._run_kernels = Graphed(self.run_kernels, device)

    @torch.inference_mode()
    def predict(self, photos: Sequence[Tensor], boxes: Sequence[Box]) -> NDArray[np.float64]:
        """Predict the landmarks of one face in each photo (3, H, W) uint8 RGB.

        Returns:
            (N, P, 2): (x, y) in integer pixels of the photos.
        """
        device = self._initial.device
        if device.type == "cpu":
            result = self._run_formulas(*_read_intensities(photos, boxes, device))
        else:
            on_device = [photo.to(device).contiguous() for photo in photos]  # kept for the kernels
            places = list_places(on_device, boxes)
            rows = 1 << (len(places) - 1).bit_length()  # few numbers of faces, so few are captured
            places = torch.cat([places, places[-1:].expand(rows - len(places), -1)])
            result = self._run_kernels(places)[: len(boxes)]
        points: NDArray[np.float64] = result.cpu().numpy()
        return points

    def run_kernels(self, places: Tensor) -> Tensor:
        """Return the points (N, P, 2) of faces at `places`, from `list_places`."""
        return self._run_cascade(
            places, lambda level, shapes: level.run_kernels(places, shapes, self._fit)
        )

    def _run_formulas(self, intensities: Tensor, places: Tensor) -> Tensor:
        """Return the points (N, P, 2) of faces at `places`; see `_read_intensities`."""
        return self._run_cascade(
            places, lambda level, shapes: level.run(intensities, places, shapes, self._fit)
        )

    def _run_cascade(self, places: Tensor, run: Callable[[_Level, Tensor], Tensor]) -> Tensor:
        shapes = self._initial.repeat(len(places), 1)
        for level in self._cascade:
            shapes = run(level, shapes)
        corner, size = _corners_and_sizes(places)
        points = shapes.double().reshape(len(places), -1, 2) * size + corner
        return (points + 0.5).floor()


class _Level:
    """A level of the cascade on a device."""

    def __init__(self, forest: Forest, device: torch.device) -> None:
        def place(array: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(array)).to(device)

        trees, splits = forest.first.shape
        self._thresholds = place(forest.thresholds)
        self._leaves = place(forest.leaves.reshape(trees * (splits + 1), -1))
        pairs = np.stack([forest.first, forest.second])
        if device.type == "cpu":
            self._pairs = place(pairs.reshape(2, -1))
            self._first_leaves = place(np.arange(trees) * (splits + 1))
            self._anchors = place(forest.anchors)
            self._offsets = place(forest.offsets)
        self._pair_anchors = place(forest.anchors.astype(np.int32)[pairs])
        self._pair_offsets = place(forest.offsets[pairs].transpose(0, 3, 1, 2))

    def run(self, intensities: Tensor, places: Tensor, shapes: Tensor, fit: Tensor) -> Tensor:
        """Return the next shapes (N, 2 P) after these, of faces at `places`."""
        corner, size = _corners_and_sizes(places)
        turn = (shapes.double() @ fit).float()
        pixels = (self._locate(shapes, turn).double() * size + corner + 0.5).floor().long()
        return _add_in_order(shapes, self._select_leaves(_look_up(intensities, places, pixels)))

    def run_kernels(self, places: Tensor, shapes: Tensor, fit: Tensor) -> Tensor:
        """Return what `run` does, given `list_places`."""
        from styleclip_server.engines.cuda.kernels.faces import cascade

        return cascade.run_level(
            places, shapes, fit, self._pair_anchors, self._pair_offsets, self._thresholds,
            self._leaves,
        )  # fmt: skip

    def _locate(self, shapes: Tensor, turn: Tensor) -> Tensor:
        """Return where the pixels of faces are (N, K, 2), in boxes of (0, 0) to (1, 1)."""
        a, b = turn[:, :1], turn[:, 1:]
        x, y = self._offsets[:, 0], self._offsets[:, 1]
        turned = torch.stack([a * x - b * y, b * x + a * y], -1)
        points: Tensor = shapes.reshape(len(shapes), -1, 2)[:, self._anchors]
        return turned + points

    def _select_leaves(self, intensities: Tensor) -> Tensor:
        """Return what each tree adds to the shapes (N, T, 2 P), given intensities (N, K)."""
        trees, splits = self._thresholds.shape
        first, second = intensities[:, self._pairs].unbind(1)
        right = (first - second).reshape(-1, trees, splits) <= self._thresholds
        node = torch.zeros_like(right[..., 0], dtype=torch.int64)
        for _ in range((splits + 1).bit_length() - 1):
            node = 2 * node + 1 + right.gather(-1, node.unsqueeze(-1)).squeeze(-1)
        return self._leaves[node - splits + self._first_leaves]


def _corners_and_sizes(places: Tensor) -> tuple[Tensor, Tensor]:
    """Return the upper left corners and the sizes (N, 1, 2) float64 of the boxes of `places`."""
    edges = places[:, :4].double().reshape(-1, 1, 2, 2)
    corner = edges[:, :, 0]
    return corner, edges[:, :, 1] - corner


def _add_in_order(shapes: Tensor, leaves: Tensor) -> Tensor:
    """Add leaves (N, T, 2 P) to shapes (N, 2 P) one by one, as dlib does, in single precision."""
    for leaf in leaves.unbind(1):
        shapes = shapes + leaf
    return shapes


def list_places(photos: Sequence[Tensor], boxes: Sequence[Box]) -> Tensor:
    """Return where faces are, for the kernels: each box, and the height, width and address of its
    photo, contiguous (3, H, W) uint8: (N, 7) int64."""
    return torch.tensor(
        [
            (*box, *photo.shape[1:], photo.data_ptr())
            for photo, box in zip(photos, boxes, strict=True)
        ]
    )


def _read_intensities(
    photos: Sequence[Tensor], boxes: Sequence[Box], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return the intensities around faces, and where they are.

    Returns:
        A 0 and then the pixels of each region, row by row, float32; and for each face its box and
        its region's left, top, width, height and first pixel (N, 9) int64.
    """
    regions, places, start = [torch.zeros(1, dtype=torch.int32, device=device)], [], 1
    for photo, (left, top, right, bottom) in zip(photos, boxes, strict=True):
        margin = max(right - left, bottom - top)
        x, y = max(left - margin, 0), max(top - margin, 0)
        region = photo[:, y : bottom + margin, x : right + margin].to(device)
        height, width = region.shape[1:]
        regions.append((region.sum(0, dtype=torch.int32) // 3).reshape(-1))
        places.append((left, top, right, bottom, x, y, width, height, start))
        start += height * width
    return torch.cat(regions).float(), torch.tensor(places, device=device)


def _look_up(intensities: Tensor, places: Tensor, pixels: Tensor) -> Tensor:
    """Return the intensities (N, K) of pixels (N, K, 2) of the photos, 0 outside the regions."""
    left, top, width, height, start = places[:, 4:].unsqueeze(-1).unbind(1)
    x, y = pixels[..., 0] - left, pixels[..., 1] - top
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return intensities[torch.where(inside, start + y * width + x, 0)]
