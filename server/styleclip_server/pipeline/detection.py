"""Where the faces of a photo are: dlib's frontal detector, searched from the large faces down.

The official alignment enlarges a photo twice and gives it to dlib, which looks for faces of one
size (a window of 80 pixels) in a pyramid of ever smaller copies: each 5/6 of the one before
(`pyramid_down<6>` in http://dlib.net/imaging.html#pyramid_down). Nearly all of the time goes into
the first, largest copies, which can only show the smallest faces. The pyramid's grid is known, so
a search can begin at any level and finds there what the whole search finds from that level on:
the same windows on the same pixels, hence the same boxes. Only when that is nothing, larger
levels are tried, the last being the official search itself: what it finds is never missed.
Each level is searched once and by itself, several at a time where there are cores for it.

A box is (left, top, right, bottom) in pixels of the photo; right and bottom are inside it.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from styleclip_contract.errors import LandmarksMissing

REMEDY = "pip install 'styleclip-triton[steps,landmarks]' on the server"

# Long sides of the copies in which the largest face is looked for, and the least score with which
# no smaller face is looked for: a lower one may be a false detection that hides a smaller face.
# 400 pixels show faces that are 18% of the photo's long side or more, 640 show 11%.
_STAGES = {400: 0.5, 640: 0.3, 1280: 0.3, 2560: 0.3}
_CLEAR = 0.25  # of the best score in the photo
_EXACT_BELOW = 1000  # photos of a smaller long side go through dlib's own pyramid, bit for bit
WHOLE_UP_TO = 3000  # larger photos are searched in parts: dlib needs 50 bytes for each pixel
_LARGEST = 4096  # pixels of the long side of the copy that shows a larger photo's large faces
_TILE = 1024
_LEAST = 20  # pixels of the short side: a face of which dlib sees less than half is not found
_BOX = 72  # right - left of every box at the pyramid level where it was found
_STEP = 6 / 5  # from one pyramid level to the next
_LEAST_LEVEL = 64  # pixels of the short side: dlib's pyramid ends there
_CELL = 8  # a part of a level that begins at such a pixel has its features where the level has them
_WINDOW = 80
_WORKERS = 8  # that search levels, or resample bands of one, side by side
# What one resampling lacks in softness beside dlib's many, as the radius of a box of pixels.
_BLUR = 0.25

Pixels = NDArray[np.uint8]
Box = tuple[int, int, int, int]


@dataclass(frozen=True)
class Detection:
    """A face's `box`, its `score` (higher is surer), and the pyramid `level` that showed it."""

    box: Box
    score: float
    level: int

    @property
    def area(self) -> int:
        left, top, right, bottom = self.box
        return (right - left + 1) * (bottom - top + 1)


class _Scored(Protocol):
    @property
    def area(self) -> int: ...
    @property
    def score(self) -> float: ...


_Found = TypeVar("_Found", bound=_Scored)


@functools.cache
def dlib() -> Any:
    """The module dlib. Raises LandmarksMissing when it is not installed."""
    try:
        import dlib as module  # here: a server that only gets face crops does not need it
    except ImportError as error:
        raise LandmarksMissing(f"dlib is not installed, so no face is found: {REMEDY}") from error
    return module


@functools.cache
def _detector() -> Any:
    return dlib().get_frontal_face_detector()


def prepare() -> None:
    """Makes the detector. Raises LandmarksMissing when dlib is not installed."""
    _detector()


class _Own(threading.local):
    """Each thread's own detectors, which a run changes: dlib's, and the same for a single level."""

    def __init__(self) -> None:
        (state,) = _detector().__getstate__()
        # The window, 80 x 80, and the most levels, 1000, as dlib packs integers.
        thousand, one = b"\1\x50\1\x50\2\xe8\3", b"\1\x50\1\x50\1\1"
        if state.count(thousand) != 1:
            raise RuntimeError("this version of dlib stores its face detector in another way")
        self.pyramid = _restored(state)
        self.level = _restored(state.replace(thousand, one))


def _restored(state: bytes) -> Any:
    kind: Any = type(_detector())
    detector = kind.__new__(kind)
    detector.__setstate__((state,))
    return detector


@functools.cache
def _own() -> _Own:
    return _Own()


@functools.cache
def _workers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_WORKERS, "detection")  # dlib runs without Python's lock


def _run(pixels: Pixels) -> list[tuple[Any, float]]:
    """Rectangles and scores of what dlib finds in a level and all that are smaller."""
    return _pairs(*_own().pyramid.run(pixels, 0, 0.0))


def _run_level(pixels: Pixels) -> list[tuple[Any, float]]:
    """Rectangles and scores of what dlib finds in a level or a part of it."""
    return _pairs(*_own().level.run(pixels, 0, 0.0))


def _pairs(rectangles: Any, scores: Any, _: Any) -> list[tuple[Any, float]]:
    return list(zip(rectangles, scores, strict=True))


@functools.cache
def _halves() -> Any:
    return dlib().pyramid_down(2)


@functools.cache
def _sixths() -> Any:
    return dlib().pyramid_down(6)


def every_face(picture: Image.Image) -> list[Detection]:
    """All faces of an RGB picture from about 40 pixels on, best score first.

    Up to `WHOLE_UP_TO` pixels of the long side this is the official search itself. A larger photo
    takes about as long but a bounded memory: its large faces come from a smaller copy, its small
    faces from overlapping parts.
    """
    if min(picture.size) < _LEAST:
        return []
    pyramid = _Pyramid(picture)
    if max(picture.size) <= WHOLE_UP_TO:
        found = [_detection(*face, 0) for face in _run(pyramid.level(0))]
    else:
        found = list(_in_parts(picture))
        if (start := _level_of(picture, _LARGEST)) is not None:
            found = _suppressed(_search(pyramid, start, None) + found)
    return sorted(found, key=_by_score)


def large_faces(picture: Image.Image) -> list[Detection]:
    """The largest face of an RGB picture, with those others that the same search shows.

    Best score first; empty only when `every_face` is. For photos below 1000 pixels the boxes are
    those of `every_face`. Beyond, copies are resampled more quickly than dlib does it, and where
    two windows score nearly the same the other one may win: tools/bench/alignment.py tells how
    often and how little it moves the quad.
    """
    pyramid = _Pyramid(picture)
    found: list[Detection] = []
    end = None
    for side, sure in _STAGES.items():
        if 2 * max(picture.size) <= max(side, 640) * _STEP:
            break  # there is no larger level, or so few that all are searched at once
        if (start := _level_of(picture, side)) is None:
            continue
        found = _suppressed(found + _search(pyramid, start, end))
        end = start
        if found:
            best = largest(found)
            found[found.index(best)] = _refined(pyramid, best, start)
            if largest(found).score >= sure:
                break
    return sorted(found, key=_by_score) if found else every_face(picture)


def largest(faces: Sequence[_Found]) -> _Found:
    """The largest clear face; of nearly the same size, the one with the better score.

    False detections score little beside a face in the same photo, and boxes come in steps of 6/5,
    so the next smaller box differs by a factor of 1.44 in area; less is rounding.
    """
    best = max(face.score for face in faces)
    clear = [face for face in faces if face.score >= _CLEAR * best]
    area = max(face.area for face in clear) / _STEP
    return max((face for face in clear if face.area >= area), key=lambda face: face.score)


def _by_score(face: Detection) -> float:
    return -face.score


def _sizes(width: int, height: int) -> Iterator[tuple[int, int]]:
    """(width, height) of the pyramid's levels: 0 is the photo enlarged twice."""
    corner = _halves().rect_up(dlib().rectangle(0, 0, width - 1, height - 1))
    width, height = corner.right() + 1, corner.bottom() + 1
    while True:
        yield width, height
        width, height = width * 5 // 6, height * 5 // 6


def _level_of(picture: Image.Image, side: int) -> int | None:
    """The first level whose long side is at most `side`; None if no window fits into it."""
    level, size = next((i, s) for i, s in enumerate(_sizes(*picture.size)) if max(s) <= side)
    return level if min(size) >= _detector().detection_window_height else None


def _search(pyramid: _Pyramid, start: int, end: int | None) -> list[Detection]:
    """What dlib finds in the levels from `start` on: up to `end`, which was searched, or all."""
    levels = range(start, pyramid.levels if end is None else end)
    pyramid.level(start)  # here, as it waits for workers; the others are made from it, without
    runs = [(level, _workers().submit(_run_in, pyramid, level)) for level in levels]
    return [_detection(*face, level) for level, run in runs for face in run.result()]


def _run_in(pyramid: _Pyramid, level: int) -> list[tuple[Any, float]]:
    # The level is made here too, as dlib holds Python's lock meanwhile: made before, it would keep
    # the search of the larger level, which takes longest, from its beginning.
    return _run_level(pyramid.level(level))


def _refined(pyramid: _Pyramid, found: Detection, start: int) -> Detection:
    """`found` in a search from level `start`, or a better window on the same face below `start`.

    Of overlapping windows dlib keeps the one with the best score, whatever its size, so a face in
    the first level of a search may have a better one in the level that was left out. Scores fall on
    both sides of the best level: those beyond a worse one are left out
    (tools/bench/alignment.py).
    """
    while 0 <= found.level - 1 < start:
        start = found.level - 1
        for other in _near(pyramid, found, start):
            same = 2 * _common(found.box, other.box) > min(found.area, other.area)
            if same and other.score > found.score:
                found = other
    return found


def _near(pyramid: _Pyramid, found: Detection, level: int) -> list[Detection]:
    """What dlib finds in a level around `found`."""
    near = _halves().rect_up(dlib().rectangle(*found.box))
    box = _sixths().rect_down(dlib().drectangle(near), level)
    # A window beyond the box: with less, other windows win (tools/bench/alignment.py).
    left = max(int(box.left() - _WINDOW) // _CELL, 0) * _CELL
    top = max(int(box.top() - _WINDOW) // _CELL, 0) * _CELL
    part = (left, top, int(box.right() + _WINDOW), int(box.bottom() + _WINDOW))
    rectangles = _run_level(pyramid.part(level, part))
    return [_detection(*face, level, left, top) for face in rectangles]


def _detection(rectangle: Any, score: float, start: int, left: int = 0, top: int = 0) -> Detection:
    """A rectangle found in level `start`, with its box in the photo rounded as dlib does it.

    dlib maps the window's whole-numbered corners up through all levels at once and then rounds,
    so they are traced back to the level where the window was. `left` and `top` are where the
    searched part of the level begins, if only windows of that level were searched.
    """
    above = round(math.log((rectangle.right() - rectangle.left()) / _BOX, _STEP))
    module = dlib()
    window = module.rectangle(_sixths().rect_down(module.drectangle(rectangle), above))
    window = module.translate_rect(window, module.point(left, top))
    whole = _halves().rect_down(_sixths().rect_up(window, start + above))
    box = (whole.left(), whole.top(), whole.right(), whole.bottom())
    return Detection(box, float(score), start + above)


class _Pyramid:
    """The levels of a picture, (H, W, 3) uint8, each made when it is asked for."""

    def __init__(self, picture: Image.Image) -> None:
        self._picture = picture
        sizes = _sizes(*picture.size)
        self._sizes = list(itertools.takewhile(lambda size: min(size) >= _LEAST_LEVEL, sizes))
        # The first levels go through dlib's own steps, for enlarging a photo in another way can
        # change which window wins on its smallest faces; in a small photo, all levels do.
        self._exact = 5 if 2 * max(picture.size) <= _LARGEST else 1
        if max(picture.size) < _EXACT_BELOW:
            self._exact = len(self._sizes)
        self._made: dict[int, Pixels] = {}
        self._making = threading.RLock()

    @property
    def levels(self) -> int:
        return len(self._sizes)

    def level(self, wanted: int) -> Pixels:
        with self._making:
            if wanted not in self._made:
                self._made[wanted] = self._make(wanted)
            return self._made[wanted]

    def _make(self, wanted: int) -> Pixels:
        if wanted == 0:
            width, height = next(_sizes(*self._picture.size))
            return dlib().resize_image(np.asarray(self._picture), height, width)
        # What follows a level that was made is made from it, step by step, whoever asks first.
        if wanted < self._exact or any(level < wanted for level in self._made):
            return _sixths()(self.level(wanted - 1))
        # Corners lie on corners.
        return _resampled(self._picture, (0, 0, *self._picture.size), self._sizes[wanted])

    def part(self, level: int, box: Box) -> Pixels:
        """The pixels of a level from `box`'s left and top up to its right and bottom."""
        size = self._sizes[level]
        left, top, right, bottom = *box[:2], min(box[2], size[0]), min(box[3], size[1])
        if level < self._exact or level in self._made:
            return np.ascontiguousarray(self.level(level)[top:bottom, left:right])
        # dlib's levels lie first pixels on first pixels and last on last; Pillow counts from the
        # corner of the first pixel and may not leave the picture, as half a new pixel does.
        old = self._picture.size
        ratios = [(before - 1) / (after - 1) for before, after in zip(old, size, strict=True)]
        x, y, x_end, y_end = (
            min(max((new - 0.5) * ratio + 0.5, 0), end)
            for new, ratio, end in zip((left, top, right, bottom), ratios * 2, old * 2, strict=True)
        )
        return _resampled(self._picture, (x, y, x_end, y_end), (right - left, bottom - top))


def _resampled(
    picture: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int]
) -> Pixels:
    """What `picture` has in `box` as `size` pixels, as soft as dlib's levels; in bands of rows,
    side by side."""
    width, height = size
    left, top, right, bottom = box
    ratio = (bottom - top) / height

    def band(rows: range) -> Pixels:
        first, last = max(rows.start - 1, 0), min(rows.stop + 1, height)  # one more for the blur
        here = (left, top + first * ratio, right, min(top + last * ratio, bottom))
        bilinear = Image.Resampling.BILINEAR
        copy = picture.resize((width, last - first), bilinear, box=here, reducing_gap=2)
        pixels = np.asarray(copy.filter(ImageFilter.BoxBlur(_BLUR)))
        return pixels[rows.start - first : rows.stop - first]

    ends = [height * i // _WORKERS for i in range(_WORKERS + 1)]
    bands = (range(*each) for each in itertools.pairwise(ends))
    return np.concatenate(list(_workers().map(band, bands)))


def _in_parts(picture: Image.Image) -> Iterator[Detection]:
    """The small faces of a large photo, in overlapping parts searched by the official rule."""
    # Faces too large for the overlap are those that the level of _LARGEST shows.
    overlap = min(max(picture.size) // 32, *picture.size) + 16
    starts = [range(0, max(side - overlap, 1), _TILE) for side in picture.size]
    for top in starts[1]:
        for left in starts[0]:
            size = _TILE + overlap
            corner = (min(left + size, picture.width), min(top + size, picture.height))
            part = np.asarray(picture.crop((left, top, *corner)))
            rectangles, scores, _ = _detector().run(part, 1, 0.0)
            for found, score in zip(rectangles, scores, strict=True):
                box = (found.left(), found.top(), found.right(), found.bottom())
                level = round(math.log(2 * (box[2] - box[0]) / _BOX, _STEP))
                shifted = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
                yield Detection(shifted, float(score), level)


def _suppressed(faces: list[Detection]) -> list[Detection]:
    """`faces` without those that share most of their area with one of a better score."""
    kept: list[Detection] = []
    for face in sorted(faces, key=_by_score):
        if all(_common(face.box, other.box) < 0.5 * min(face.area, other.area) for other in kept):
            kept.append(face)
    return kept


def _common(one: Box, other: Box) -> int:
    """Pixels that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0]) + 1
    height = min(one[3], other[3]) - max(one[1], other[1]) + 1
    return max(width, 0) * max(height, 0)
