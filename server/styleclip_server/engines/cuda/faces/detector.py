"""dlib's frontal face detector on any device, for many images at once.

Five linear filters on histograms of oriented gradients (`fhog`); their parameters are read from
the installed dlib. Scores differ from dlib's by rounding only, so wherever two scores, or a score
and the threshold, are closer than `MARGIN`, dlib searches that image itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from styleclip_server.engines.cuda.faces import fhog, resizing
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
# Long side of the first level that is searched for large faces (11% of the photo's long side), and
# the score from which the result is no false detection that may hide a smaller face.
_LARGE_FACES_LEVEL = 640
_SURE_SCORE = 0.3
_MAX_PIXELS = 1 << 22  # of the images in one canvas, unless a single one is larger


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
class _Search:
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
        self._thresholds = torch.from_numpy(self._parameters.thresholds).to(device)
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
        searches = self._search(photos, _LARGE_FACES_LEVEL)
        unsure = [index for index, search in enumerate(searches) if not search.sure]
        results = [search.faces for search in searches]
        official = self.detect_all_faces([photos[index] for index in unsure])
        for index, faces in zip(unsure, official, strict=True):
            results[index] = faces
        return results

    def detect_all_faces(self, photos: Sequence[Tensor]) -> list[list[Detection]]:
        """Detect the faces of each photo (3, H, W) uint8 RGB by the official search.

        Returns:
            For each photo detections, best score first.
        """
        return [search.faces for search in self._search(photos, None)]

    @torch.inference_mode()
    def _search(self, photos: Sequence[Tensor], longest: int | None) -> list[_Search]:
        """Search the pyramids of photos, or their levels of a long side up to `longest`."""
        pyramids = self._build_pyramids(photos, longest)
        found = iter(self._find_windows([level for _, levels in pyramids for level in levels]))
        searches = []
        for start, levels in pyramids:
            windows = [
                _Window(factor_6_5().rect_up(window.rectangle, above), window.score)
                for above, in_level in enumerate(itertools.islice(found, len(levels)))
                for window in in_level
            ]
            hits = self._decide(windows)
            if hits is None:
                hits = run_on_pyramid(_to_array(levels[0]))
            searches.append(_Search(start, [to_detection(hit, start) for hit in hits]))
        return searches

    def _build_pyramids(
        self, photos: Sequence[Tensor], longest: int | None
    ) -> list[tuple[int, list[Tensor]]]:
        """Build the pyramid of each photo, those of photos of the same size at once."""
        pyramids: list[tuple[int, list[Tensor]]] = [(0, [])] * len(photos)
        sizes = [tuple(photo.shape) for photo in photos]
        for size in dict.fromkeys(sizes):
            same = [index for index, other in enumerate(sizes) if other == size]
            batch = torch.stack([photos[index].to(self.device) for index in same])
            start, levels = resizing.build_pyramid(batch, longest)
            for row, index in enumerate(same):
                pyramids[index] = (start, [level[row] for level in levels])
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
        features, mask, slots = fhog.extract(levels)
        scores = self._filter(features).double()
        scores -= self._thresholds[:, None, None]
        places = torch.nonzero((scores > -MARGIN) & mask)
        found = torch.cat([places[:, 1:], scores[places.unbind(-1)][:, None]], -1).tolist()
        windows: list[list[_Window]] = [[] for _ in levels]
        for y, x, score in found:
            level, slot = next(
                (level, slot)
                for level, slot in enumerate(slots)
                if 0 <= y - slot.top < slot.height and 0 <= x - slot.left < slot.width
            )
            rectangle = _window_at(int(y) - slot.top, int(x) - slot.left)
            windows[level].append(_Window(rectangle, score))
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

    def _decide(self, windows: list[_Window]) -> list[Hit] | None:
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
