"""dlib's frontal face detector on any device, for many images at once.

Five linear filters on histograms of oriented gradients (`fhog`); their parameters are read from
the installed dlib. Scores differ from dlib's by rounding only, so wherever two scores, or a score
and the threshold, are closer than `MARGIN`, dlib searches that image itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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
from styleclip_server.pipeline.image_pyramid import Box

MARGIN = 1e-4  # of two scores; rounding differs by less than a tenth of it
_CELLS = WINDOW // fhog.CELL  # of a filter's sides
_MAX_FILTERS = 100
_SURE_SCORE = 0.3  # from which the largest face is no false detection that hides a smaller one
_MAX_WINDOWS = 1 << 13  # in one canvas; dlib searches photos with more
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
class _Windows:
    """Windows that may be faces in the images of one canvas or more.

    Attributes:
        images: the number of the image that each is in (N,) int64.
        places: where it is in the responses of its canvas (N,) int64.
        boxes: left, top, right, bottom in the image's pixels, inclusive (N, 4) int64.
        scores: above the threshold (N,) float64.
        crowded: images in canvases with more windows than are read.
    """

    images: NDArray[np.int64]
    places: NDArray[np.int64]
    boxes: NDArray[np.int64]
    scores: NDArray[np.float64]
    crowded: frozenset[int]


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
        limits = (self._parameters.thresholds - 2 * MARGIN).astype(np.float32)
        self._limits = torch.from_numpy(limits).to(device)
        if device.type == "cuda":
            from styleclip_server.engines.cuda.kernels.faces import filters as kernels

            filters = torch.from_numpy(self._parameters.filters).to(device)
            self._taps = kernels.order_taps(filters)
            self._limits = kernels.order_limits(self._limits)
        self._layouts: dict[tuple[tuple[int, ...], int], list[fhog.Layout]] = {}
        self._find_in_frames = Graphed(self._find_in_small_levels, device)
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
        if not photos:
            return []
        pyramids = self._build_pyramids(photos)
        windows = self._find_windows([level for levels in pyramids for level in levels])
        counts = [len(levels) for levels in pyramids]
        return [search.faces for search in self._decide(0, counts, windows, photos)]

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
        if self.device.type == "cpu":
            drawn = frames.draw_photos(photos, batch, frame.photo_side)
        else:
            photos = [photo.to(self.device).contiguous() for photo in photos]  # kept for the kernel
            drawn = frames.list_places(photos, batch)
        sizes = tuple((photo.shape[1], photo.shape[2]) for photo in photos)
        tables = frames.plan_photos(sizes, batch, self.device)
        found = copy_to_host(self._find_in_frames(drawn, *tables.tensors))
        windows = self._read_windows(found, self._frame_layouts(frame, batch))
        return self._decide(frame.start, [len(frame.searched)] * batch, windows, photos)

    def _find_in_small_levels(self, photos: Tensor, *tables: Tensor) -> Tensor:
        """Return the windows in the small levels of photos: `_find` of the canvases of
        `_frame_layouts`, one after the other.

        Args:
            photos: in frames, from `frames.draw_photos`; on a GPU `frames.list_places`.
            tables: those of `LevelTables`.
        """
        joined = LevelTables(*tables)
        frame = frames.frame_of_levels(joined.sizes.shape[-1])
        if photos.is_cuda:
            from styleclip_server.engines.cuda.kernels.faces import frames as kernel

            photos = kernel.draw_photos(photos, frame.photo_side)
        levels = frames.build_levels(frame, photos, joined)
        sizes = joined.sizes[:, 1:, frame.start :].transpose(1, 2)
        found, first = [], 0
        for layout in self._frame_layouts(frame, len(photos)):
            end = first + len(layout.slots) // len(levels)
            images = [level[index] for index in range(first, end) for level in levels]
            found += self._find(images, layout, sizes[first:end].reshape(-1, 2))
            first = end
        return torch.cat(found)

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

    def _find_windows(self, levels: Sequence[Tensor]) -> _Windows:
        """Return the windows in levels of any sizes that may be a face."""
        layouts: list[fhog.Layout] = []
        found: list[Tensor] = []
        for canvas in _split(levels):
            sizes = tuple((level.shape[1], level.shape[2]) for level in canvas)
            layouts.append(fhog.lay_out(sizes, self.device))
            found += self._find(canvas, layouts[-1])
        return self._read_windows(copy_to_host(torch.cat(found)), layouts)

    def _find(
        self, images: Sequence[Tensor], layout: fhog.Layout, sizes: Tensor | None = None
    ) -> list[Tensor]:
        """Find the windows of a canvas whose response exceeds `_limits`; see `fhog.extract`.

        Returns:
            Their number (1,), their places in the responses (filters, cells, cells), and the bits
            of their responses in single precision, both (_MAX_WINDOWS,) int32.
        """
        features, mask = fhog.extract(images, layout, sizes)
        if features.is_cuda:
            from styleclip_server.engines.cuda.kernels.faces import filters as kernels

            count, places, scores = kernels.find_windows(
                features, mask, self._taps, self._limits, _MAX_WINDOWS
            )
        else:
            responses = self._filter(features)
            exceeds = mask & (responses > self._limits[:, None, None])
            all_places = exceeds.flatten().nonzero()[:, 0]
            count = torch.tensor([len(all_places)], dtype=torch.int32)
            places = torch.zeros(_MAX_WINDOWS, dtype=torch.int32)
            kept = all_places[:_MAX_WINDOWS]
            places[: len(kept)] = kept
            scores = responses.flatten()[places]
        return [count, places, scores.view(torch.int32)]

    def _read_windows(self, found: NDArray[np.int32], layouts: Sequence[fhog.Layout]) -> _Windows:
        """Read what `_find` returned for canvases, one after the other; images are counted through
        all of them."""
        images, places, boxes, scores = [], [], [], []
        crowded: set[int] = set()
        first = 0
        for canvas, layout in zip(found.reshape(len(layouts), -1), layouts, strict=True):
            count = int(canvas[0])
            if count > _MAX_WINDOWS:
                crowded |= set(range(first, first + len(layout.slots)))
                count = 0
            at = canvas[1 : 1 + count].astype(np.int64)
            filters, cells = np.divmod(at, layout.image_of_cell.size)
            responses = canvas[1 + _MAX_WINDOWS :][:count].view(np.float32).astype(np.float64)
            above = responses - self._parameters.thresholds[filters]
            near = above > -MARGIN
            at, cells, above = at[near], cells[near], above[near]
            image = layout.image_of_cell.ravel()[cells]
            y_x = np.stack(np.divmod(cells, layout.image_of_cell.shape[1]), 1)
            images.append(image + np.int64(first))
            places.append(at)
            boxes.append(_boxes_at(y_x - layout.corners[image]))
            scores.append(above)
            first += len(layout.slots)
        return _Windows(
            np.concatenate(images),
            np.concatenate(places),
            np.concatenate(boxes),
            np.concatenate(scores),
            frozenset(crowded),
        )

    def _filter(self, features: Tensor) -> Tensor:
        """Return the response (N, H, W) of each filter, centered on each cell of (31, H, W).

        A matmul and a sum, since cuDNN may choose a convolution that rounds more.
        """
        height, width = features.shape[1:]
        products = self._taps @ features.reshape(fhog.CHANNELS, -1)
        padded_size = (height + _CELLS - 1, width + _CELLS - 1)
        sums = functional.fold(products[None], padded_size, (_CELLS, _CELLS))
        return sums[0, :, _CELLS // 2 :, _CELLS // 2 :][:, :height, :width]

    def _decide(
        self, start: int, counts: Sequence[int], windows: _Windows, photos: Sequence[Tensor]
    ) -> list[Search]:
        """Suppress windows that overlap a better one.

        Args:
            start: the number of each photo's first level.
            counts: how many images, which are its levels, each photo has; there may be more counts
                than photos.
            windows: in the images.
            photos: (3, H, W) uint8 RGB, for dlib where rounding could change the result.
        """
        ends = np.cumsum(counts)
        photo = np.searchsorted(ends, windows.images, side="right")
        above = windows.images - (ends - counts)[photo]
        # By photo, the best score first; of equal ones, the larger level.
        order = np.lexsort((windows.places, windows.images, -windows.scores, photo))
        bounds = np.searchsorted(photo[order], np.arange(len(photos) + 1))
        boxes = [tuple(box) for box in map_up(windows.boxes, above)[order].tolist()]
        scores = windows.scores[order].tolist()
        crowded = set(np.searchsorted(ends, list(windows.crowded), side="right").tolist())
        searches = []
        for index, pixels in enumerate(photos):
            part = slice(bounds[index], bounds[index + 1])
            kept = None if index in crowded else self._suppress(boxes[part], scores[part])
            self.searches += 1
            if kept is None:
                self.decided_by_dlib += 1
                hits = run_on_pyramid(_to_array(resizing.build_level(pixels, start)))
            else:
                hits = kept
            searches.append(Search(start, [to_detection(hit, start) for hit in hits]))
        return searches

    def _suppress(self, boxes: Sequence[Box], scores: Sequence[float]) -> list[Hit] | None:
        """Suppress windows, the best first, that overlap a better one; None if rounding could
        change the result."""
        if any(abs(score) < MARGIN for score in scores):
            return None
        kept: list[int] = []
        for index, box in enumerate(boxes):
            better = [other for other in kept if self._overlap(boxes[other], box)]
            rivals = better or kept[-1:]
            if rivals and all(
                scores[other] - scores[index] < MARGIN and boxes[other] != box for other in rivals
            ):
                return None  # rounding could put this window before all of them
            if not better:
                kept.append(index)
        rectangle = import_dlib().rectangle
        return [(rectangle(*boxes[index]), scores[index]) for index in kept]

    def _overlap(self, one: Box, other: Box) -> bool:
        """Return whether dlib takes two boxes for the same face."""
        left, top, right, bottom = one
        other_left, other_top, other_right, other_bottom = other
        width = min(right, other_right) - max(left, other_left) + 1
        height = min(bottom, other_bottom) - max(top, other_top) + 1
        if width <= 0 or height <= 0:
            return False
        shared = width * height
        around_width = max(right, other_right) - min(left, other_left) + 1
        around = around_width * (max(bottom, other_bottom) - min(top, other_top) + 1)
        area = (right - left + 1) * (bottom - top + 1)
        other_area = (other_right - other_left + 1) * (other_bottom - other_top + 1)
        return (
            shared > around * self._parameters.max_overlap
            or shared > min(area, other_area) * self._parameters.max_covered
        )


def _split(levels: Sequence[Tensor]) -> Iterator[Sequence[Tensor]]:
    """Split images (3, H, W) into those of canvases."""
    start, pixels = 0, 0
    for end, level in enumerate(levels):
        size = level.shape[1] * level.shape[2]
        if start < end and pixels + size > _MAX_PIXELS:
            yield levels[start:end]
            start, pixels = end, 0
        pixels += size
    yield levels[start:]


def _photos_at_once(frame: Frame) -> int:
    """Return how many photos of a frame are searched at once: a power of two."""
    most = max(1, _MAX_FRAME_PIXELS // frame.sides[0] ** 2)
    return 1 << (most.bit_length() - 1)


def _boxes_at(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the boxes (N, 4), in pixels, of the windows that are centered on cells with features:
    row and column (N, 2)."""
    corners = np.concatenate([cells[:, ::-1], cells[:, ::-1] + (_CELLS - 1)], 1)
    pixels = (corners - 3) * fhog.CELL + 1
    boxes: NDArray[np.int64] = pixels + np.where(pixels >= 0, fhog.CELL // 2, -fhog.CELL // 2)
    return boxes


def map_up(boxes: NDArray[np.int64], levels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Map boxes (N, 4) to levels that are larger by `levels` (N,), as dlib's pyramid does: all
    levels, and then rounding (http://dlib.net/dlib/image_transforms/image_pyramid.h.html)."""
    mapped = boxes.astype(np.float64)
    for level in range(levels.max(initial=0)):
        mapped = np.where(levels[:, None] > level, mapped * (6 / 5) + 0.3, mapped)
    return np.floor(mapped + 0.5).astype(np.int64)


def _to_array(level: Tensor) -> Pixels:
    """Convert an image (3, H, W) to (H, W, 3) in the host's memory."""
    return np.ascontiguousarray(level.permute(1, 2, 0).cpu().numpy())
