"""Face detection with dlib's frontal detector, from the largest faces down.

The official alignment upsamples the photo by two and runs dlib's detector over the entire image
pyramid. Most of that time goes into the first, largest levels, which can only show the smallest
faces. A search that starts at a later level runs the same windows on the same pixels, so it finds
what the full search finds from that level on. `detect_large_faces` starts at a small level and adds
larger ones only until it finds a face; its last resort is the official search itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from styleclip_server.pipeline.cancellation import check_cancelled
from styleclip_server.pipeline.dlib_detector import (
    WINDOW,
    Hit,
    import_dlib,
    run_on_level,
    run_on_pyramid,
)
from styleclip_server.pipeline.image_pyramid import (
    SCALE,
    Box,
    ImagePyramid,
    map_to_level,
    map_to_photo,
    map_to_smaller_level,
    worker_pool,
)

# Long sides of the levels at which the search starts in turn, each with the score that ends it: a
# face with a lower score may be a false detection that hides a smaller face. A level of 400 pixels
# shows faces of 18% of the photo's long side or more, 640 pixels those of 11%.
_STAGES = {400: 0.5, 640: 0.3, 1280: 0.3, 2560: 0.3}
_CLEAR_FACE = 0.25  # of the best score in the photo
OFFICIAL_SEARCH_UP_TO = 3000  # long side; dlib needs 50 bytes a pixel, so larger photos are tiled
_LARGE_FACES_LEVEL = 4096  # long side of the level that shows a tiled photo's large faces
_TILE = 1024
MIN_PHOTO = 20  # pixels of the short side; dlib misses a face of which it sees less than half
_BOX = 72  # right - left of every box at the pyramid level where it was detected
_CELL = 8  # pixels; regions that start on a multiple have the same HOG cells as the level


@dataclass(frozen=True)
class Detection:
    """A detected face.

    Attributes:
        box: (left, top, right, bottom) in pixels of the photo, all inclusive.
        score: the detector's confidence; higher is surer.
        level: the pyramid level in which it was detected.
    """

    box: Box
    score: float
    level: int

    @property
    def area(self) -> int:
        """The number of pixels in the box."""
        left, top, right, bottom = self.box
        return (right - left + 1) * (bottom - top + 1)


def detect_all_faces(image: Image.Image) -> list[Detection]:
    """Detect every face of at least about 40 pixels in an RGB image.

    Up to `OFFICIAL_SEARCH_UP_TO` pixels of the long side this is the official search. In a larger
    photo, large faces are detected in a reduced copy and small ones in overlapping tiles, which
    bounds the memory.

    Returns:
        Detections, best score first.
    """
    if min(image.size) < MIN_PHOTO:
        return []
    pyramid = ImagePyramid(image)
    check_cancelled()
    if max(image.size) <= OFFICIAL_SEARCH_UP_TO:
        detections = [to_detection(hit, 0) for hit in run_on_pyramid(pyramid.level(0))]
    else:
        detections = list(_search_tiles(image))
        start = pyramid.first_level_within(_LARGE_FACES_LEVEL)
        if start is not None:
            detections = _suppress_overlaps(_search(pyramid, start, len(pyramid)) + detections)
    return sorted(detections, key=_by_score)


def detect_large_faces(image: Image.Image) -> list[Detection]:
    """Detect the largest face of an RGB image, and others that the same search finds.

    For photos below 1000 pixels the boxes are those of `detect_all_faces`. In larger ones, levels
    are resampled faster than dlib does it; where two windows score nearly the same, the other one
    may win. tools/bench/alignment.py measures how often, and how little it moves the quad.

    Returns:
        Detections, best score first; empty only if `detect_all_faces` finds none.
    """
    pyramid = ImagePyramid(image)
    detections: list[Detection] = []
    end = len(pyramid)
    for longest, sure_score in _STAGES.items():
        if 2 * max(image.size) <= max(longest, 640) * SCALE:
            break  # so few larger levels are left that the official search is as fast
        start = pyramid.first_level_within(longest)
        if start is None:
            continue
        check_cancelled()
        detections = _suppress_overlaps(detections + _search(pyramid, start, end))
        end = start
        if detections:
            best = select_largest(detections)
            detections[detections.index(best)] = _refine(pyramid, best, start)
            if select_largest(detections).score >= sure_score:
                break
    return sorted(detections, key=_by_score) if detections else detect_all_faces(image)


def select_largest(faces: Sequence[Detection]) -> Detection:
    """Select the largest clear face; of nearly equal sizes, the one with the best score.

    False detections score low beside a real face in the same photo. Box sides come in steps of
    6/5, so areas in steps of 1.44; a smaller difference is rounding.
    """
    best = max(face.score for face in faces)
    clear = [face for face in faces if face.score >= _CLEAR_FACE * best]
    area = max(face.area for face in clear) / SCALE
    return max((face for face in clear if face.area >= area), key=lambda face: face.score)


def _by_score(face: Detection) -> float:
    return -face.score


def _search(pyramid: ImagePyramid, start: int, end: int) -> list[Detection]:
    """Search the levels from `start` up to `end`, each by itself and in parallel."""
    # The first level is built in this thread, since that waits for workers; the others are built
    # from it by the workers, so that the search of the largest level starts at once.
    pyramid.level(start)
    levels = range(start, end)
    hits_by_level = worker_pool().map(lambda level: run_on_level(pyramid.level(level)), levels)
    return [
        to_detection(hit, level)
        for level, hits in zip(levels, hits_by_level, strict=True)
        for hit in hits
    ]


def _refine(pyramid: ImagePyramid, face: Detection, start: int) -> Detection:
    """Return `face`, or a better window on the same face in a level before `start`.

    Of overlapping windows dlib keeps the best score at any size, so a face in the first level of a
    search may score higher in the level before it. Scores fall off on both sides of the best
    level, so the climb ends at the first level that is worse.
    """
    while 0 <= face.level - 1 < start:
        start = face.level - 1
        for other in _search_around(pyramid, face, start):
            same_face = 2 * _intersection(face.box, other.box) > min(face.area, other.area)
            if same_face and other.score > face.score:
                face = other
    return face


def _search_around(pyramid: ImagePyramid, face: Detection, level: int) -> list[Detection]:
    """Search the region of a level around `face`."""
    left, top, right, bottom = map_to_level(face.box, level)
    # A window beyond the box: with less, other windows win (tools/bench/alignment.py).
    x = max(int(left - WINDOW) // _CELL, 0) * _CELL
    y = max(int(top - WINDOW) // _CELL, 0) * _CELL
    region = pyramid.region(level, (x, y, int(right + WINDOW), int(bottom + WINDOW)))
    return [to_detection(hit, level, x, y) for hit in run_on_level(region)]


def to_detection(hit: Hit, start: int, left: int = 0, top: int = 0) -> Detection:
    """Convert a hit of a search that began at level `start`, rounding its box as dlib does.

    dlib maps a window's integer corners through all levels at once and then rounds, so the window
    is traced back to the level where it was detected. `left` and `top` are the origin of the
    searched region, if it was part of one level.
    """
    rectangle, score = hit
    above = round(math.log((rectangle.right() - rectangle.left()) / _BOX, SCALE))
    window = map_to_smaller_level(rectangle, above)
    window = import_dlib().translate_rect(window, import_dlib().point(left, top))
    return Detection(map_to_photo(window, start + above), float(score), start + above)


def _search_tiles(image: Image.Image) -> Iterator[Detection]:
    """Detect the small faces of a large photo by the official search in overlapping tiles."""
    # Faces too large for the overlap are visible in the level of _LARGE_FACES_LEVEL.
    overlap = min(max(image.size) // 32, *image.size) + 16
    columns, rows = (range(0, max(side - overlap, 1), _TILE) for side in image.size)
    size = _TILE + overlap
    for top in rows:
        for left in columns:
            check_cancelled()
            right, bottom = min(left + size, image.width), min(top + size, image.height)
            tile = np.asarray(image.crop((left, top, right, bottom)))
            for rectangle, score in run_on_pyramid(tile, upsample=1):
                level = round(math.log(2 * (rectangle.right() - rectangle.left()) / _BOX, SCALE))
                box = (
                    rectangle.left() + left,
                    rectangle.top() + top,
                    rectangle.right() + left,
                    rectangle.bottom() + top,
                )
                yield Detection(box, float(score), level)


def _suppress_overlaps(faces: list[Detection]) -> list[Detection]:
    """Remove faces that share at least half of their area with one of a better score."""
    kept: list[Detection] = []
    for face in sorted(faces, key=_by_score):
        if all(
            _intersection(face.box, other.box) < 0.5 * min(face.area, other.area) for other in kept
        ):
            kept.append(face)
    return kept


def _intersection(one: Box, other: Box) -> int:
    """Return the number of pixels that two boxes share."""
    width = min(one[2], other[2]) - max(one[0], other[0]) + 1
    height = min(one[3], other[3]) - max(one[1], other[1]) + 1
    return max(width, 0) * max(height, 0)
