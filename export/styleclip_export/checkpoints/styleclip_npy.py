"""The files of StyleCLIP's own scripts: `fs3.npy`, `S_mean_std`, `S` and `W.npy`.

Layout: orpatashnik/StyleCLIP, `global_torch/GetCode.py` and `SingleChannel.py`. `S` is a pickled
list of one (N, C_i) array for each modulation in execution order, toRGB included; `S_mean_std` a
pickled list of two lists of (C_i,) arrays; the `.npy` files are plain arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from styleclip_export.checkpoints import identify, torch_file
from styleclip_export.checkpoints.pickled_arrays import NUMPY, Stored
from styleclip_export.checkpoints.unpickler import Machine, Refused

_NPY, _PICKLE = (b"\x93NUMPY",), (b"\x80",)
_REMEDY = "compute the statistics with `styleclip-export stats`"
_MOST_STYLES = 64
# What NumPy raises at damaged files; it reads their headers as Python's literals.
_NOT_READ = (
    ArithmeticError, MemoryError, OSError, RecursionError, SyntaxError, TokenError, TypeError,
    ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class StyleStatistics:
    """Of each modulation: mean and standard deviation, (C_i,) float32."""

    means: tuple[np.ndarray, ...]
    deviations: tuple[np.ndarray, ...]


def read_fs3(path: Path) -> np.ndarray:
    """(R, D) float32, a row for each channel of the convolutions; a view of the file where it is
    float32 there.

    Raises:
        CheckpointError: the file is another, damaged or hostile; so are all functions here.
    """
    return _npy(Path(path), 2, "StyleCLIP's fs3.npy")


def read_w(path: Path) -> np.ndarray:
    """W samples, (N, w_dim) float32."""
    with identify.reading(Path(path), "StyleCLIP's W.npy", _REMEDY):
        samples = _npy(Path(path), (2, 3), "StyleCLIP's W.npy")
        return samples if samples.ndim == 2 else samples[:, 0]


def read_s(path: Path) -> tuple[np.ndarray, ...]:
    """S samples: (N, C_i) float32 for each modulation."""
    expected = "StyleCLIP's S (a pickled list of arrays)"
    with identify.reading(Path(path), expected, _REMEDY):
        value = _pickle(Path(path))
        samples = _arrays(value, 2)
        if len({len(array) for array in samples}) != 1:
            raise Refused("its modulations have different numbers of samples")
        return samples


def read_s_mean_std(path: Path) -> StyleStatistics:
    """Mean and deviation of each modulation."""
    expected = "StyleCLIP's S_mean_std (two pickled lists of arrays)"
    with identify.reading(Path(path), expected, _REMEDY):
        value = _pickle(Path(path))
        if not isinstance(value, list | tuple) or len(value) != 2:
            raise Refused("it does not hold two lists")
        means, deviations = _arrays(value[0], 1), _arrays(value[1], 1)
        if [a.shape for a in means] != [a.shape for a in deviations]:
            raise Refused("its means and deviations have different shapes")
        if any((a < 0).any() for a in deviations):
            raise Refused("a deviation is negative")
        return StyleStatistics(means, deviations)


def _npy(path: Path, dimensions: int | tuple[int, ...], expected: str) -> np.ndarray:
    with identify.reading(path, expected, _REMEDY):
        identify.must_not_be_else(path, _NPY)
        try:
            # Mapped, so that the shape in the header is compared with the size of the file.
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        except _NOT_READ as error:
            raise Refused("it is truncated, holds objects, or claims more than it has") from error
        allowed = (dimensions,) if isinstance(dimensions, int) else dimensions
        if array.ndim not in allowed or 0 in array.shape:
            raise Refused(f"it holds an array of shape {array.shape}")
        return _numbers(np.asarray(array))


def _pickle(path: Path) -> Any:
    identify.must_not_be_else(path, _PICKLE)
    with torch_file.mapped(path) as data:
        machine = Machine(data, NUMPY)
        value = machine.run()
        if machine.position != len(data):
            raise Refused("more bytes follow its pickle")
        return value


def _arrays(value: Any, dimensions: int) -> tuple[np.ndarray, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= _MOST_STYLES:
        raise Refused("it holds no list of arrays")
    found = []
    for array in value:
        if not isinstance(array, Stored) or len(array.shape) != dimensions or 0 in array.shape:
            raise Refused(f"it holds something other than arrays of {dimensions} dimensions")
        found.append(_numbers(array.view()))
    return tuple(found)


def _numbers(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f":
        raise Refused(f"it holds {array.dtype}, not floating-point numbers")
    numbers = np.asarray(array, np.float32)
    if not np.isfinite(numbers).all():
        raise Refused("it holds numbers that are not finite")
    return numbers
