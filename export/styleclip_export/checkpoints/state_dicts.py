"""From arrays in a file to a network's state_dict: names and shapes first, then the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from styleclip_export.checkpoints.pickled_arrays import BFLOAT16, FileArray
from styleclip_export.checkpoints.unpickler import InertObject, UnsupportedFile
from styleclip_networks.resampling import RESAMPLE_FILTER

MAX_WIDTH = 8192  # of any layer of a published network
_COUNTER = "num_batches_tracked"  # BatchNorm's, the only integers

# The upsampling filter that our generator has built in, with upsampling's gain of 4.
RESAMPLE_KERNEL = (np.outer(RESAMPLE_FILTER, RESAMPLE_FILTER) / 64 * 4).astype(np.float32)

_Network = TypeVar("_Network", bound=nn.Module)
Arrays = Mapping[str, np.ndarray]
Shapes = Mapping[str, tuple[int, ...]]


def select_arrays(state_dict: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """Return views of the arrays whose names start with `prefix`, which is cut off."""
    if not isinstance(state_dict, dict):
        raise UnsupportedFile("it contains no state_dict where one belongs")
    return {
        name[len(prefix) :]: array.view()
        for name, array in state_dict.items()
        if isinstance(name, str) and name.startswith(prefix) and isinstance(array, FileArray)
    }


def mark_visited(module: InertObject, visited: set[int]) -> None:
    """Add a module to those that a walk through a network has visited.

    Raises:
        UnsupportedFile: it was visited. Walking through modules that share their parts could take
            exponential time.
    """
    if id(module) in visited:
        raise UnsupportedFile("a module appears twice in its network")
    visited.add(id(module))


def shape_of(
    arrays: Arrays, name: str, dimensions: int, max_size: int = MAX_WIDTH
) -> tuple[int, ...]:
    """Return the shape of an array, of which every dimension must be from 1 to `max_size`."""
    if name not in arrays:
        raise UnsupportedFile(f"it has no {name!r}")
    shape = arrays[name].shape
    if len(shape) != dimensions or not all(0 < n <= max_size for n in shape):
        raise UnsupportedFile(f"{name!r} has the shape {shape}")
    return shape


def shapes_of(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all arrays."""
    return {name: array.shape for name, array in arrays.items()}


def expected_shapes(build: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    """Return the shapes in the state_dict of a network, for which no memory is allocated.

    Args:
        build: constructs the network.
    """
    try:
        with torch.device("meta"):
            state = build().state_dict()
    except ValueError as error:
        raise UnsupportedFile(str(error)) from error
    return {name: tuple(value.shape) for name, value in state.items()}


def check_shapes(
    arrays: Arrays, expected: Shapes, ignore: Callable[[str], bool] = lambda name: False
) -> None:
    """Check that names and shapes are the expected ones.

    Args:
        ignore: whether an unexpected name is allowed.

    Raises:
        UnsupportedFile: they differ.
    """
    _refuse_names("lacks", [name for name in expected if name not in arrays])
    _refuse_names(
        "has an unknown", [name for name in arrays if name not in expected and not ignore(name)]
    )
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise UnsupportedFile(f"{name!r} has the shape {arrays[name].shape}, not {shape}")


def _refuse_names(problem: str, names: list[str]) -> None:
    if names:
        others = f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise UnsupportedFile(f"it {problem} {names[0][:80]!r}{others}")


def check_total_size(arrays: Iterable[np.ndarray], file_size: int) -> None:
    """Check that arrays are together no larger than the file; they are if they share a storage."""
    total = sum(array.nbytes for array in arrays)
    if total > file_size:
        raise UnsupportedFile(f"its arrays claim {total:,} bytes, but the file has {file_size:,}")


def check_resample_kernel(kernel: np.ndarray, name: str) -> None:
    """Check that a resampling filter is the one that our generator has built in."""
    exact = kernel.shape == RESAMPLE_KERNEL.shape and kernel.dtype.kind in "fV"
    if not exact or not np.allclose(to_float32(kernel), RESAMPLE_KERNEL, atol=1e-6):
        raise UnsupportedFile(f"its {name!r} is not the filter 1, 3, 3, 1")


def to_tensor(array: np.ndarray, name: str) -> Tensor:
    """Copy an array into a tensor: float32, or int64 for BatchNorm's counters.

    Raises:
        UnsupportedFile: it is of another kind of dtype, or contains an infinite number or NaN.
    """
    if name.endswith(_COUNTER) and array.dtype.kind in "iu":
        return torch.from_numpy(np.array(array, np.int64, order="C"))
    if array.dtype.kind != "f" and array.dtype != BFLOAT16:
        raise UnsupportedFile(f"{name!r} contains {array.dtype}, not floating-point numbers")
    with np.errstate(over="ignore"):  # of float64, which becomes infinite
        values = np.array(to_float32(array), order="C")
    if not np.isfinite(values).all():
        raise UnsupportedFile(f"{name!r} contains numbers that are not finite")
    return torch.from_numpy(values)


def to_float32(array: np.ndarray) -> np.ndarray:
    """Convert any floating-point array; a bfloat16 is the upper half of a float32."""
    if array.dtype == BFLOAT16:
        bits = np.ascontiguousarray(array).view("<u2").astype("<u4")
        return (bits << 16).view("<f4").reshape(array.shape)
    return np.asarray(array, np.float32)


def to_tensors(arrays: Arrays, names: Iterable[str]) -> dict[str, Tensor]:
    """Copy the named arrays into tensors; see `to_tensor`."""
    return {name: to_tensor(arrays[name], name) for name in names}


def build_network(build: Callable[[], _Network], state: Mapping[str, Tensor]) -> _Network:
    """Build a network in evaluation mode, which shares its memory with `state`."""
    with torch.device("meta"):
        network = build()
    network.load_state_dict(state, assign=True)
    return network.eval()
