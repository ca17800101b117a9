"""The image pyramid that dlib's face detector searches.

Level 0 is the photo upsampled by two; each further level has 5/6 of the previous level's sides
(`pyramid_down<6>`, http://dlib.net/imaging.html#pyramid_down). Levels are built on request, so a
search that starts at a small level never builds the large ones.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from styleclip_server.pipeline.dlib_detector import WINDOW, Pixels, import_dlib

Box = tuple[int, int, int, int]  # left, top, right, bottom

SCALE = 6 / 5  # from one level to the next larger one
_MIN_SIDE = 64  # pixels; dlib's pyramid ends there
# Long sides up to which all levels, or the first five, are built by dlib's own resampling. Another
# resampling of the photo can change which window wins on the smallest faces.
_ALL_LEVELS_EXACT_BELOW = 1000
_FIVE_LEVELS_EXACT_UP_TO = 2048
# A box blur that makes up for one resampling being sharper than dlib's sequence of many.
_BLUR_RADIUS = 0.25
_WORKERS = 8


@functools.cache
def worker_pool() -> ThreadPoolExecutor:
    """Return the threads that search levels or resample bands of one; dlib releases the GIL."""
    return ThreadPoolExecutor(_WORKERS, "detection")


@functools.cache
def _factor_2() -> Any:
    return import_dlib().pyramid_down(2)


@functools.cache
def factor_6_5() -> Any:
    return import_dlib().pyramid_down(6)


def _level_sizes(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Yield (width, height) of each level, without end."""
    upsampled = _factor_2().rect_up(import_dlib().rectangle(0, 0, width - 1, height - 1))
    width, height = upsampled.right() + 1, upsampled.bottom() + 1
    while True:
        yield width, height
        width, height = width * 5 // 6, height * 5 // 6


def map_to_level(box: Box, level: int) -> tuple[float, float, float, float]:
    """Map a box in the photo to a level."""
    dlib = import_dlib()
    upsampled = _factor_2().rect_up(dlib.rectangle(*box))
    mapped = factor_6_5().rect_down(dlib.drectangle(upsampled), level)
    return mapped.left(), mapped.top(), mapped.right(), mapped.bottom()


def map_to_smaller_level(rectangle: Any, levels: int) -> Any:
    """Map dlib's `rectangle` to the level that is `levels` levels smaller, in integer pixels."""
    dlib = import_dlib()
    return dlib.rectangle(factor_6_5().rect_down(dlib.drectangle(rectangle), levels))


def map_to_photo(rectangle: Any, level: int) -> Box:
    """Map dlib's `rectangle` in a level to a box in the photo."""
    mapped = _factor_2().rect_down(factor_6_5().rect_up(rectangle, level))
    return mapped.left(), mapped.top(), mapped.right(), mapped.bottom()


class ImagePyramid:
    """The levels of an RGB image as (H, W, 3) uint8 arrays; safe to share between threads."""

    def __init__(self, image: Image.Image) -> None:
        self._image = image
        sizes = _level_sizes(*image.size)
        self._sizes = list(itertools.takewhile(lambda size: min(size) >= _MIN_SIDE, sizes))
        longest = max(image.size)
        if longest < _ALL_LEVELS_EXACT_BELOW:
            self.exact_levels = len(self)
        else:
            self.exact_levels = 5 if longest <= _FIVE_LEVELS_EXACT_UP_TO else 1
        self._built: dict[int, Pixels] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._sizes)

    def first_level_within(self, longest: int) -> int | None:
        """Return the first level of long side `longest` or less, None if it is below a window."""
        for level, size in enumerate(self._sizes):
            if max(size) <= longest:
                return level if min(size) >= WINDOW else None
        return None

    def level(self, index: int) -> Pixels:
        """Return a level, building it on the first call."""
        with self._lock:
            if index not in self._built:
                self._built[index] = self._build(index)
            return self._built[index]

    def _build(self, index: int) -> Pixels:
        if index == 0:
            width, height = next(_level_sizes(*self._image.size))  # it may be below _MIN_SIDE
            return import_dlib().resize_image(np.asarray(self._image), height, width)
        # Below a level that exists, each level is built from the previous one, so that its pixels
        # do not depend on the order of requests.
        if index < self.exact_levels or any(built < index for built in self._built):
            return factor_6_5()(self.level(index - 1))
        return _resample(self._image, (0, 0, *self._image.size), self._sizes[index])

    def region(self, index: int, box: Box) -> Pixels:
        """Return the pixels of a level within `box` (right and bottom exclusive)."""
        size = self._sizes[index]
        left, top, right, bottom = *box[:2], min(box[2], size[0]), min(box[3], size[1])
        if index < self.exact_levels or index in self._built:
            return np.ascontiguousarray(self.level(index)[top:bottom, left:right])
        # dlib maps the centers of a level's first and last pixels to those of the photo. Pillow
        # counts from the corner of the first pixel, and its box must lie inside the image, which
        # half a pixel of a level may leave.
        photo = self._image.size
        ratios = [(old - 1) / (new - 1) for old, new in zip(photo, size, strict=True)]
        x, y, x_end, y_end = (
            min(max((pixel - 0.5) * ratio + 0.5, 0), side)
            for pixel, ratio, side in zip(
                (left, top, right, bottom), ratios * 2, photo * 2, strict=True
            )
        )
        return _resample(self._image, (x, y, x_end, y_end), (right - left, bottom - top))


def _resample(
    image: Image.Image, box: tuple[float, float, float, float], size: tuple[int, int]
) -> Pixels:
    """Resample `box` of the image to `size` as softly as dlib does, in parallel bands of rows."""
    width, height = size
    left, top, right, bottom = box
    ratio = (bottom - top) / height

    def resample_band(rows: range) -> Pixels:
        first, last = max(rows.start - 1, 0), min(rows.stop + 1, height)  # one more for the blur
        band = (left, top + first * ratio, right, min(top + last * ratio, bottom))
        bilinear = Image.Resampling.BILINEAR
        resized = image.resize((width, last - first), bilinear, box=band, reducing_gap=2)
        pixels = np.asarray(resized.filter(ImageFilter.BoxBlur(_BLUR_RADIUS)))
        return pixels[rows.start - first : rows.stop - first]

    edges = [height * i // _WORKERS for i in range(_WORKERS + 1)]
    bands = (range(*pair) for pair in itertools.pairwise(edges))
    return np.concatenate(list(worker_pool().map(resample_band, bands)))
