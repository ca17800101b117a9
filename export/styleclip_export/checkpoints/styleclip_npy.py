"""The files of StyleCLIP's own scripts: `fs3.npy` and `S_mean_std`.

Layout: orpatashnik/StyleCLIP, `global_torch/GetCode.py` and `SingleChannel.py`. `S_mean_std` is a
pickled list of two lists of (C_i,) arrays, one for each modulation in execution order, toRGB
included.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from styleclip_export.checkpoints.checkpoint_file import open_checkpoint
from styleclip_export.checkpoints.pickled_arrays import NUMPY_GLOBALS, FileArray
from styleclip_export.checkpoints.unpickler import SafeUnpickler, UnsupportedFile

_REMEDY = "compute the statistics with `styleclip-export stats`"
_MAX_MODULATIONS = 64
# What NumPy raises for damaged files; it reads their headers as Python literals.
_NUMPY_ERRORS = (
    ArithmeticError, MemoryError, OSError, RecursionError, SyntaxError, TokenError, TypeError,
    ValueError,
)  # fmt: skip


@dataclass(frozen=True)
class StyleStatistics:
    """Mean and standard deviation of each modulation, (C_i,) float32."""

    means: tuple[np.ndarray, ...]
    deviations: tuple[np.ndarray, ...]


def read_fs3(path: Path) -> np.ndarray:
    """Read fs3, (R, D) float32 with a row for each channel of the convolutions.

    It is a view of the file where that contains float32.

    Raises:
        CheckpointError: the file has another format, or is damaged or hostile; so do all
            functions here.
    """
    path, expected = Path(path), "StyleCLIP's fs3.npy"
    with open_checkpoint(path, expected, ("npy",), _REMEDY):
        return _load_npy(path, (2,))


def read_s_mean_std(path: Path) -> StyleStatistics:
    """Read mean and standard deviation of each modulation."""
    expected = "StyleCLIP's S_mean_std (two pickled lists of arrays)"
    with open_checkpoint(Path(path), expected, ("pickle",), _REMEDY) as data:
        content = _unpickle(data)
        if not isinstance(content, list | tuple) or len(content) != 2:
            raise UnsupportedFile("it does not contain two lists")
        means, deviations = _float_arrays(content[0], 1), _float_arrays(content[1], 1)
        if [array.shape for array in means] != [array.shape for array in deviations]:
            raise UnsupportedFile("its means and deviations have different shapes")
        if any((array < 0).any() for array in deviations):
            raise UnsupportedFile("a deviation is negative")
        return StyleStatistics(means, deviations)


def _load_npy(path: Path, dimensions: tuple[int, ...]) -> np.ndarray:
    try:
        # Mapped, so that NumPy compares the shape in the header with the size of the file.
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except _NUMPY_ERRORS as error:
        raise UnsupportedFile(
            "it is truncated, contains objects, or claims more than it has"
        ) from error
    if array.ndim not in dimensions or 0 in array.shape:
        raise UnsupportedFile(f"it contains an array of shape {array.shape}")
    return _as_float32(np.asarray(array))


def _unpickle(data: memoryview) -> Any:
    unpickler = SafeUnpickler(data, NUMPY_GLOBALS)
    content = unpickler.load()
    if unpickler.position != len(data):
        raise UnsupportedFile("more bytes follow its pickle")
    return content


def _float_arrays(value: Any, dimensions: int) -> tuple[np.ndarray, ...]:
    if not isinstance(value, list) or not 0 < len(value) <= _MAX_MODULATIONS:
        raise UnsupportedFile("it contains no list of arrays")
    arrays = []
    for array in value:
        if not isinstance(array, FileArray) or len(array.shape) != dimensions or 0 in array.shape:
            raise UnsupportedFile(
                f"it contains something other than arrays of {dimensions} dimensions"
            )
        arrays.append(_as_float32(array.view()))
    return tuple(arrays)


def _as_float32(array: np.ndarray) -> np.ndarray:
    if array.dtype.kind != "f":
        raise UnsupportedFile(f"it contains {array.dtype}, not floating-point numbers")
    numbers = np.asarray(array, np.float32)
    if not np.isfinite(numbers).all():
        raise UnsupportedFile("it contains numbers that are not finite")
    return numbers
