"""dlib's frontal face detector, one copy for each thread.

dlib is imported on first use: a server that only receives face crops runs without it.
"""

from __future__ import annotations

import functools
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from styleclip_contract.errors import LandmarksMissing

INSTALL_HINT = "pip install 'styleclip-triton[steps,landmarks]' on the server"
WINDOW = 80  # pixels of the sides of the detector's window

Pixels = NDArray[np.uint8]
Hit = tuple[Any, float]  # dlib's rectangle in the searched pixels, and its score


@functools.cache
def import_dlib() -> Any:
    """Import dlib.

    Raises:
        LandmarksMissing: dlib is not installed.
    """
    try:
        import dlib
    except ImportError as error:
        raise LandmarksMissing(
            f"dlib is not installed, so no face is found: {INSTALL_HINT}"
        ) from error
    return dlib


@functools.cache
def load_detector() -> Any:
    """Load dlib's frontal face detector (LandmarksMissing: dlib is not installed)."""
    return import_dlib().get_frontal_face_detector()


class _ThreadDetectors(threading.local):
    """One thread's copies of the detector, since running a detector changes its state."""

    def __init__(self) -> None:
        (state,) = load_detector().__getstate__()
        self.all_levels = _deserialize(state)
        self.one_level = _deserialize(_limit_to_one_level(state))


def _limit_to_one_level(state: bytes) -> bytes:
    """Change the detector's maximum number of pyramid levels, which dlib's Python API cannot."""
    # dlib serializes an integer as its length and its bytes, little-endian: the window's height and
    # width, 80 x 80, are followed by the maximum number of levels, 1000.
    thousand_levels, one_level = b"\1\x50\1\x50\2\xe8\3", b"\1\x50\1\x50\1\1"
    if state.count(thousand_levels) != 1:
        raise RuntimeError("this version of dlib serializes its face detector in an unknown way")
    return state.replace(thousand_levels, one_level)


def _deserialize(state: bytes) -> Any:
    detector_class: Any = type(load_detector())
    detector = detector_class.__new__(detector_class)
    detector.__setstate__((state,))
    return detector


@functools.cache
def _thread_detectors() -> _ThreadDetectors:
    return _ThreadDetectors()


def run_on_pyramid(pixels: Pixels, upsample: int = 0) -> list[Hit]:
    """Search `pixels` (H, W, 3) uint8 RGB and all smaller pyramid levels, best score first.

    Args:
        upsample: how many times the pixels are doubled first.
    """
    rectangles, scores, _ = _thread_detectors().all_levels.run(pixels, upsample, 0.0)
    return list(zip(rectangles, scores, strict=True))


def run_on_level(pixels: Pixels) -> list[Hit]:
    """Search `pixels` (H, W, 3) uint8 RGB at this scale alone, best score first."""
    rectangles, scores, _ = _thread_detectors().one_level.run(pixels, 0, 0.0)
    return list(zip(rectangles, scores, strict=True))
