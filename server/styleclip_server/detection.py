"""Where the faces of a photo are: dlib's frontal detector, searched from the large faces down.

The official alignment enlarges a photo twice and gives it to dlib, which looks for faces of one
size (a window of 80 pixels) in a pyramid of ever smaller copies: each 5/6 of the one before
(`pyramid_down<6>` in http://dlib.net/imaging.html#pyramid_down). Nearly all of the time goes into
the first, largest copies, which can only show the smallest faces. The pyramid's grid is known, so
a search can begin at any level and finds there what the whole search finds from that level on:
the same windows on the same pixels, hence the same boxes. Only when that is nothing, a larger
level is tried, the last being the official search itself: what it finds is never missed.

A box is (left, top, right, bottom) in pixels of the photo; right and bottom are inside it.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from styleclip_client.errors import LandmarksMissing

REMEDY = "pip install 'styleclip-triton[steps,landmarks]' on the server"

# Long sides of the copies in which the largest face is looked for; 640 pixels show faces that are
# 11% of the photo's long side or more, and cost 30 ms.
_STAGES = (640, 1280, 2560)
_SURE = 0.3  # a lower score may be a false detection that hides a smaller face
_CLEAR = 0.25  # of the best score in the photo
_EXACT_BELOW = 1000  # photos of a smaller long side go through dlib's own pyramid, bit for bit
WHOLE_UP_TO = 3000  # larger photos are searched in parts: dlib needs 50 bytes for each pixel
_LARGEST = 4096  # pixels of the long side of the copy that shows a larger photo's large faces
_TILE = 1024
_LEAST = 20  # pixels of the short side: a face of which dlib sees less than half is not found
_BOX = 72  # right - left of every box at the pyramid level where it was found
_STEP = 6 / 5  # from one pyramid level to the next
# A part of a level that begins at such a pixel has its features, which come in cells of 8 pixels,
# where the whole level has them, and so have the next two: 288, 240 and 200 are multiples of 8.
_GRID = 288

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
    if max(picture.size) <= WHOLE_UP_TO:
        found = _search(picture, 0)
    else:
        found = list(_in_parts(picture))
        if (start := _level_of(picture, _LARGEST)) is not None:
            found = _suppressed(_search(picture, start) + found)
    return sorted(found, key=_by_score)


def large_faces(picture: Image.Image) -> list[Detection]:
    """The largest face of an RGB picture, with those others that the same search shows.

    Best score first; empty only when `every_face` is. For photos below 1000 pixels the boxes are
    those of `every_face`. Beyond, the copy is resampled more quickly than dlib does it, and where
    two windows score nearly the same the other one may win: scripts/bench_alignment.py tells how
    often and how little it moves the quad.
    """
    found: list[Detection] = []
    for side in _STAGES:
        if 2 * max(picture.size) <= side * _STEP:
            break  # there is no larger level
        if (start := _level_of(picture, side)) is None:
            continue
        found = _search(picture, start) or found
        if found:
            best = largest(found)
            found[found.index(best)] = _refined(picture, best, start)
        if found and largest(found).score >= _SURE:
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


def _search(picture: Image.Image, start: int) -> list[Detection]:
    """What dlib finds in the pyramid of `picture` from level `start` on."""
    pixels = _level(picture, start)
    rectangles, scores, _ = _detector().run(pixels, 0, 0.0)
    return [
        _detection(rectangle, score, start)
        for rectangle, score in zip(rectangles, scores, strict=True)
    ]


def _refined(picture: Image.Image, found: Detection, start: int) -> Detection:
    """`found` in a search from level `start`, or a better window on the same face below `start`.

    Of overlapping windows dlib keeps the one with the best score, whatever its size, so a face in
    the first two levels of a search may have a better one in the levels that were left out.
    """
    while start > 0 and found.level < start + 2:
        low = max(start - 2, 0)
        pixels = _level(picture, low)
        near = _halves().rect_up(dlib().rectangle(*found.box))
        box = _sixths().rect_down(dlib().drectangle(near), low)
        reach = box.width() + 80
        left = max(int(box.left() - reach) // _GRID, 0) * _GRID
        top = max(int(box.top() - reach) // _GRID, 0) * _GRID
        part = pixels[top : int(box.bottom() + reach), left : int(box.right() + reach)]
        rectangles, scores, _ = _detector().run(np.ascontiguousarray(part), 0, 0.0)
        for rectangle, score in zip(rectangles, scores, strict=True):
            other = _detection(rectangle, score, low, left, top)
            same = 2 * _common(found.box, other.box) > min(found.area, other.area)
            if same and other.level < start and other.score > found.score:
                found = other
        start = low
    return found


def _detection(rectangle: Any, score: float, start: int, left: int = 0, top: int = 0) -> Detection:
    """A rectangle found in level `start`, with its box in the photo rounded as dlib does it.

    dlib maps the window's whole-numbered corners up through all levels at once and then rounds,
    so they are traced back to the level where the window was. `left` and `top`, multiples of
    `_GRID`, are where the searched part of the level begins.
    """
    above = round(math.log((rectangle.right() - rectangle.left()) / _BOX, _STEP))
    module = dlib()
    window = module.rectangle(_sixths().rect_down(module.drectangle(rectangle), above))
    move = module.point(round(left / _STEP**above), round(top / _STEP**above))
    window = module.translate_rect(window, move)
    whole = _halves().rect_down(_sixths().rect_up(window, start + above))
    box = (whole.left(), whole.top(), whole.right(), whole.bottom())
    return Detection(box, float(score), start + above)


def _level(picture: Image.Image, wanted: int) -> Pixels:
    """Level `wanted` of the pyramid, (H, W, 3) uint8."""
    sizes = [size for size, _ in zip(_sizes(*picture.size), range(wanted + 1), strict=False)]
    first = 0
    if max(picture.size) >= _EXACT_BELOW:
        # Four of dlib's own steps make up for most of the difference between its interpolation
        # and the filtered reduction that gets near the level at once.
        near = next(i for i, size in enumerate(sizes) if max(size) <= _LARGEST or i == wanted)
        first = max(wanted - 4, near)
    if first == 0:
        width, height = sizes[0]
        pixels = dlib().resize_image(np.asarray(picture), height, width)
    else:
        pixels = _resampled(picture, sizes[first])
    for _ in range(first, wanted):
        pixels = _sixths()(pixels)
    return pixels


def _resampled(picture: Image.Image, size: tuple[int, int]) -> Pixels:
    """`picture` at `size`, first pixels on first pixels and last on last, as dlib's levels lie."""
    ratios = [(old - 1) / (new - 1) for old, new in zip(picture.size, size, strict=True)]
    factor = max(1, int(min(ratios)))
    reduced = picture.reduce(factor) if factor > 1 else picture
    # Pillow counts from the corner of the first pixel and may not leave the picture, as half a
    # new pixel does; the corners therefore lie up to half a pixel off, the middle lies right.
    left, top = (max(0.5 - 0.5 * ratio, 0) for ratio in ratios)
    right, bottom = picture.width - left, picture.height - top
    box = (left / factor, top / factor, right / factor, bottom / factor)
    return np.asarray(reduced.resize(size, Image.Resampling.BILINEAR, box=box))


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
