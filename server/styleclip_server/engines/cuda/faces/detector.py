"""dlib's frontal face detector on any device, for many images at once.

Five linear filters on histograms of oriented gradients (`fhog`); their parameters are read from
the installed dlib. Scores differ from dlib's by rounding only, so wherever two scores, or a score
and the threshold, are closer than `MARGIN`, dlib searches that image itself.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from styleclip_server.engines.cuda.cuda_graphs import Graphed
from styleclip_server.engines.cuda.faces import fhog, frames, resizing
from styleclip_server.engines.cuda.faces.frames import Frame, LevelTables
from styleclip_server.engines.cuda.host_memory import copy_to_host
from styleclip_server.pipeline.detection import Detection, select_largest, to_detection
from styleclip_server.pipeline.dlib_detector import (
    WINDOW,
    Hit,
    Pixels,
    import_dlib,
    load_detector,
    run_on_pyramid,
)
from styleclip_server.pipeline.dlib_files import DlibReader, NotADlibModel
from styleclip_server.pipeline.image_pyramid import factor_6_5

MARGIN = 1e-4  # of two scores; rounding differs by less than a tenth of it
_CELLS = WINDOW // fhog.CELL  # of a filter's sides
_MAX_FILTERS = 100
_SURE_SCORE = 0.3  # from which the largest face is no false detection that hides a smaller one
_MAX_PIXELS = 1 << 22  # of the images in one canvas, unless a single one is larger
_MAX_FRAME_PIXELS = 1 << 26  # of level 0 of the photos that are searched at once, unless it is one


@dataclass(frozen=True)
class DetectorParameters:
    """What dlib's detector consists of.

    Attributes:
        filters: (N, 31, 10, 10) float32.
        thresholds: (N,) float64: the score from which a window is a face.
        max_overlap: the share of the smallest rectangle around two boxes that they may have in
            common.
        max_covered: the share of either box that may be covered by the other.
    """

    filters: np.ndarray
    thresholds: np.ndarray
    max_overlap: float
    max_covered: float


@dataclass(frozen=True)
class _Window:
    """A window that may be a face: dlib's rectangle, and its score above the threshold."""

    rectangle: Any
    score: float


@dataclass(frozen=True)
class Search:
    """The result of a search of a photo from level `start` of its pyramid on."""

    start: int
    faces: list[Detection]

    @property
    def sure(self) -> bool:
        """Whether larger levels can show no larger face and no better window on the largest one.

        Scores fall off on both sides of a face's best level, so that must not be the first.
        """
        if self.start == 0 or not self.faces:
            return self.start == 0
        largest = select_largest(self.faces)
        return largest.score >= _SURE_SCORE and largest.level > self.start


def read_parameters(state: bytes) -> DetectorParameters:
    """Read the detector's parameters from its serialized state.

    Raises:
        NotADlibModel: it is no detector of this kind.
    """
    reader = DlibReader(np.frombuffer(state, np.uint8))
    reader.expect(2, 1, 0, 0, fhog.CELL, 0, WINDOW, WINDOW)  # versions, no features, no padding
    reader.integers(1)  # the maximum number of levels
    reader.expect(64, 64)  # the smallest level
    reader.floats(1)  # how it was trained
    size = fhog.CHANNELS * _CELLS * _CELLS
    reader.expect(size)
    max_overlap, max_covered = reader.floats(2).tolist()
    weights = [reader.column(size + 1) for _ in range(reader.integer(_MAX_FILTERS))]
    reader.end()
    if not weights or any(len(row) != size + 1 for row in weights):
        raise NotADlibModel("a filter of another size")
    filters = np.stack([_separable(row[:-1].reshape(-1, _CELLS, _CELLS)) for row in weights])
    thresholds = np.array([row[-1] for row in weights])
    return DetectorParameters(filters.astype(np.float32), thresholds, max_overlap, max_covered)


def _separable(planes: np.ndarray) -> np.ndarray:
    """Leave out what dlib leaves out of filters (31, 10, 10): components that hardly count."""
    left, values, right = np.linalg.svd(planes)
    smallest = np.maximum(1e-4, values.max(-1, keepdims=True) * 0.001)
    root = np.sqrt(np.where(values < smallest, 0, values))
    columns = (left * root[:, None, :]).astype(np.float32).astype(np.float64)
    rows = (root[:, :, None] * right).astype(np.float32).astype(np.float64)
    product: np.ndarray = columns @ rows
    return product


class FaceDetector:
    """dlib's frontal face detector on `device`.

    Attributes:
        searches: the number of searches of a photo.
        decided_by_dlib: the number of those that dlib repeated, because scores were too close.

    Raises:
        LandmarksMissing: dlib is not installed.
        NotADlibModel: the installed dlib has another detector.
    """

    def __init__(self, device: torch.device) -> None:
        (state,) = load_detector().__getstate__()
        self._parameters = read_parameters(state)
        # A feature adds to the scores of all windows around it: the first, upper left one has it in
        # its last row and column.
        taps = self._parameters.filters[:, :, ::-1, ::-1].transpose(0, 2, 3, 1)
        self._taps = torch.from_numpy(taps.reshape(-1, fhog.CHANNELS)).to(device)
        self._layouts: dict[tuple[tuple[int, ...], int], list[fhog.Layout]] = {}
        self._score_frames = Graphed(self._score_small_levels, device)
        self.device = device
        self.searches = self.decided_by_dlib = 0

    def detect_large_faces(self, photos: Sequence[Tensor]) -> list[list[Detection]]:
        """Detect the largest face of each photo, and others that the same search finds.

        Small levels are searched first; their boxes are those of the official search. The last
        resort is the official search itself.

        Args:
            photos: (3, H, W) uint8 RGB of any sizes.

        Returns:
            For each photo detections, best score first; empty only if `detect_all_faces` finds
            none.
        """
        searches = self.search_small_levels(photos)
        unsure = [index for index, search in enumerate(searches) if not search.sure]
        results = [search.faces for search in searches]
        official = self.detect_all_faces([photos[index] for index in unsure])
        for index, faces in zip(unsure, official, strict=True):
            results[index] = faces
        return results

    @torch.inference_mode()
    def detect_all_faces(self, photos: Sequence[Tensor]) -> list[list[Detection]]:
        """Detect the faces of each photo (3, H, W) uint8 RGB by the official search.

        Returns:
            For each photo detections, best score first.
        """
        pyramids = self._build_pyramids(photos)
        found = iter(self._find_windows([level for levels in pyramids for level in levels]))
        return [
            self._decide(0, list(itertools.islice(found, len(levels))), photo).faces
            for photo, levels in zip(photos, pyramids, strict=True)
        ]

    @torch.inference_mode()
    def search_small_levels(self, photos: Sequence[Tensor]) -> list[Search]:
        """Search the levels of photos whose long sides are `frames.LARGE_FACES_LEVEL` or less."""
        searches: dict[int, Search] = {}
        photo_frames = [frames.frame_for(*photo.shape[1:]) for photo in photos]
        for frame in dict.fromkeys(photo_frames):
            same = [index for index, other in enumerate(photo_frames) if other == frame]
            at_once = _photos_at_once(frame)
            for start in range(0, len(same), at_once):
                rows = same[start : start + at_once]
                found = self._search_frame(frame, [photos[index] for index in rows])
                searches |= zip(rows, found, strict=True)
        return [searches[index] for index in range(len(photos))]

    def _search_frame(self, frame: Frame, photos: Sequence[Tensor]) -> list[Search]:
        """Search the small levels of photos of one frame."""
        batch = 1 << (len(photos) - 1).bit_length()  # few numbers of photos, so few are captured
        side = frame.photo_side
        in_frames = torch.zeros(batch, 3, side, side, dtype=torch.uint8, device=self.device)
        for place, photo in zip(in_frames, photos, strict=False):
            place[:, : photo.shape[1], : photo.shape[2]] = photo
        plans = [frames.plan_levels(*photo.shape[1:], self.device) for photo in photos]
        tables = frames.join_tables(plans, batch)
        scores = copy_to_host(self._score_frames(in_frames, *tables.tensors))
        levels: list[list[_Window]] = []
        start = 0
        for layout in self._frame_layouts(frame, batch):
            shape = (len(self._parameters.thresholds), *layout.image_of_cell.shape)
            end = start + math.prod(shape)
            levels += self._windows(scores[start:end].reshape(shape), layout)
            start = end
        count = len(frame.searched)
        return [
            self._decide(frame.start, levels[index * count : (index + 1) * count], photo)
            for index, photo in enumerate(photos)
        ]

    def _score_small_levels(self, photos: Tensor, *tables: Tensor) -> Tensor:
        """Return the scores of all windows in the small levels of photos in frames: of each filter
        and cell of the canvases of `_frame_layouts`, one after the other (cells,) float32."""
        frame = frames.frame_of_side(photos.shape[-1])
        joined = LevelTables(*tables)
        levels = frames.build_levels(frame, photos, joined)
        sizes = joined.sizes[:, 1:, frame.start :].transpose(1, 2)
        scores, first = [], 0
        for layout in self._frame_layouts(frame, len(photos)):
            end = first + len(layout.slots) // len(levels)
            images = [level[index] for index in range(first, end) for level in levels]
            scores.append(self._score(images, layout, sizes[first:end].reshape(-1, 2)).reshape(-1))
            first = end
        return torch.cat(scores)

    def _frame_layouts(self, frame: Frame, photos: int) -> list[fhog.Layout]:
        """Return the layout of each canvas that so many photos of a frame are searched in."""
        key = frame.searched, photos
        if key not in self._layouts:  # kept, since graphs read them
            levels = tuple((side, side) for side in frame.searched)
            in_canvas = max(1, _MAX_PIXELS // sum(side * side for side in frame.searched))
            self._layouts[key] = [
                fhog.lay_out(levels * min(in_canvas, photos - first), self.device)
                for first in range(0, photos, in_canvas)
            ]
        return self._layouts[key]

    def _build_pyramids(self, photos: Sequence[Tensor]) -> list[list[Tensor]]:
        """Build all levels of each photo, those of photos of the same size at once."""
        pyramids: list[list[Tensor]] = [[]] * len(photos)
        sizes = [tuple(photo.shape) for photo in photos]
        for size in dict.fromkeys(sizes):
            same = [index for index, other in enumerate(sizes) if other == size]
            batch = torch.stack([photos[index].to(self.device) for index in same])
            levels = resizing.build_pyramid(batch)
            for row, index in enumerate(same):
                pyramids[index] = [level[row] for level in levels]
        return pyramids

    def _find_windows(self, levels: Sequence[Tensor]) -> list[list[_Window]]:
        """Return the windows in each level that may be a face."""
        windows: list[list[_Window]] = []
        start, pixels = 0, 0
        for end, level in enumerate(levels):
            size = level.shape[1] * level.shape[2]
            if start < end and pixels + size > _MAX_PIXELS:
                windows += self._find_in_canvas(levels[start:end])
                start, pixels = end, 0
            pixels += size
        return windows + self._find_in_canvas(levels[start:]) if levels else []

    def _find_in_canvas(self, levels: Sequence[Tensor]) -> list[list[_Window]]:
        sizes = tuple((level.shape[1], level.shape[2]) for level in levels)
        layout = fhog.lay_out(sizes, self.device)
        return self._windows(copy_to_host(self._score(levels, layout)), layout)

    def _score(
        self, images: Sequence[Tensor], layout: fhog.Layout, sizes: Tensor | None = None
    ) -> Tensor:
        """Return each filter's response to the window centered on each cell of a canvas, -inf
        outside the images (filters, cells, cells) float32; see `fhog.extract`."""
        features, mask = fhog.extract(images, layout, sizes)
        return torch.where(mask, self._filter(features), -torch.inf)

    def _windows(self, responses: NDArray[np.float32], layout: fhog.Layout) -> list[list[_Window]]:
        """Return the windows in each image of a canvas that may be a face, given their responses
        from `_score`."""
        windows: list[list[_Window]] = [[] for _ in layout.slots]
        thresholds = self._parameters.thresholds
        places = np.nonzero(responses > np.float32(thresholds.min() - 2 * MARGIN))
        scores = responses[places].astype(np.float64) - thresholds[places[0]]
        images = layout.image_of_cell[places[1:]]
        columns = (array.tolist() for array in (*places[1:], images, scores))
        for y, x, image, score in zip(*columns, strict=True):
            if score > -MARGIN:
                slot = layout.slots[image]
                rectangle = _window_at(y - slot.top, x - slot.left)
                windows[image].append(_Window(rectangle, score))
        return windows

    def _filter(self, features: Tensor) -> Tensor:
        """Return the response (N, H, W) of each filter, centered on each cell of (31, H, W).

        A matmul and a sum, since cuDNN may choose a convolution that rounds more.
        """
        height, width = features.shape[1:]
        products = self._taps @ features.reshape(fhog.CHANNELS, -1)
        padded_size = (height + _CELLS - 1, width + _CELLS - 1)
        sums = functional.fold(products[None], padded_size, (_CELLS, _CELLS))
        return sums[0, :, _CELLS // 2 :, _CELLS // 2 :][:, :height, :width]

    def _decide(self, start: int, levels: Sequence[Sequence[_Window]], photo: Tensor) -> Search:
        """Suppress windows that overlap a better one.

        Args:
            start: the number of the first level.
            levels: the windows in each level.
            photo: (3, H, W) uint8 RGB, for dlib where rounding could change the result.
        """
        windows = [
            _Window(factor_6_5().rect_up(window.rectangle, above), window.score)
            for above, in_level in enumerate(levels)
            for window in in_level
        ]
        hits = self._suppress(windows)
        if hits is None:
            hits = run_on_pyramid(_to_array(resizing.build_level(photo, start)))
        return Search(start, [to_detection(hit, start) for hit in hits])

    def _suppress(self, windows: list[_Window]) -> list[Hit] | None:
        """Suppress windows that overlap a better one; None if rounding could change the result."""
        self.searches += 1
        kept: list[_Window] = []
        close = any(abs(window.score) < MARGIN for window in windows)
        for window in sorted(windows, key=lambda window: -window.score):
            better = [other for other in kept if self._overlap(other.rectangle, window.rectangle)]
            close = close or _is_close(window, better or kept[-1:])
            if not better:
                kept.append(window)
        if close:
            self.decided_by_dlib += 1
            return None
        return [(window.rectangle, window.score) for window in kept]

    def _overlap(self, one: Any, other: Any) -> bool:
        """Return whether dlib takes two boxes for the same face."""
        shared = one.intersect(other).area()
        return bool(
            shared > (one + other).area() * self._parameters.max_overlap
            or shared > min(one.area(), other.area()) * self._parameters.max_covered
        )


def _photos_at_once(frame: Frame) -> int:
    """Return how many photos of a frame are searched at once: a power of two."""
    most = max(1, _MAX_FRAME_PIXELS // frame.sides[0] ** 2)
    return 1 << (most.bit_length() - 1)


def _is_close(window: _Window, better: list[_Window]) -> bool:
    """Return whether rounding could put `window` before all of the better ones."""
    return bool(better) and all(
        other.score - window.score < MARGIN and other.rectangle != window.rectangle
        for other in better
    )


def _window_at(row: int, column: int) -> Any:
    """Return the rectangle, in pixels, of the window that is centered on a cell with features."""

    def to_pixels(cell: int) -> int:
        corner = (cell - 3) * fhog.CELL + 1
        return corner + (fhog.CELL // 2 if corner >= 0 else -fhog.CELL // 2)

    left, top = to_pixels(column), to_pixels(row)
    right, bottom = to_pixels(column + _CELLS - 1), to_pixels(row + _CELLS - 1)
    return import_dlib().rectangle(left, top, right, bottom)


def _to_array(level: Tensor) -> Pixels:
    """Convert an image (3, H, W) to (H, W, 3) in the host's memory."""
    return np.ascontiguousarray(level.permute(1, 2, 0).cpu().numpy())
