"""From arrays in a file to a network's state: names and shapes first, then the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from styleclip_export.checkpoints.pickled_arrays import Stored
from styleclip_export.checkpoints.unpickler import Record, Refused
from styleclip_networks.stylegan2 import RESAMPLE_FILTER

_COUNTER = "num_batches_tracked"
WIDEST = 8192  # of any layer of a published network


def arrays(value: Any, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of a state_dict whose names begin with `prefix`, which is cut off: views of the
    file."""
    if not isinstance(value, dict):
        raise Refused("it holds no state_dict where one belongs")
    return {
        name[len(prefix) :]: array.view()
        for name, array in value.items()
        if isinstance(name, str) and name.startswith(prefix) and isinstance(array, Stored)
    }


def once(module: Record, seen: set[int] | None) -> set[int]:
    """`seen` and the module, which must be new: modules that share their parts would take for ever
    to walk through.

    Raises:
        Refused: it is not new.
    """
    seen = set() if seen is None else seen
    if id(module) in seen:
        raise Refused("a module appears twice in its network")
    seen.add(id(module))
    return seen


def shape_of(
    found: Mapping[str, np.ndarray], name: str, dimensions: int, widest: int = WIDEST
) -> tuple[int, ...]:
    """The shape of one array, of so many dimensions, none of them empty or beyond all measure."""
    if name not in found:
        raise Refused(f"it has no {name!r}")
    shape = found[name].shape
    if len(shape) != dimensions or not all(0 < n <= widest for n in shape):
        raise Refused(f"{name!r} has the shape {shape}")
    return shape


def without_memory(build: Callable[[], nn.Module]) -> dict[str, tuple[int, ...]]:
    """Name → shape of the state of the network that `build` makes, for which nothing is
    allocated."""
    try:
        with torch.device("meta"):
            state = build().state_dict()
    except ValueError as error:
        raise Refused(str(error)) from error
    return {name: tuple(value.shape) for name, value in state.items()}


def check(
    found: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    ignore: Callable[[str], bool] = lambda name: False,
) -> None:
    """Raises Refused unless names and shapes are the expected ones.

    ignore: says which names more there may be.
    """
    missing = [name for name in expected if name not in found]
    extra = [name for name in found if name not in expected and not ignore(name)]
    for names, what in ((missing, "lacks"), (extra, "has an unknown")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise Refused(f"it {what} {names[0][:80]!r}{more}")
    for name, shape in expected.items():
        if found[name].shape != shape:
            raise Refused(f"{name!r} has the shape {found[name].shape}, not {shape}")


def check_total(found: Iterable[np.ndarray], size: int) -> None:
    """Raises Refused when the arrays together are larger than the file of `size` bytes, as they
    are when many names share one storage."""
    total = sum(array.nbytes for array in found)
    if total > size:
        raise Refused(f"its arrays claim {total:,} bytes, but the file has {size:,}")


def tensor(array: np.ndarray, name: str = "an array") -> Tensor:
    """The numbers, in memory of their own: float32, or int64 for BatchNorm's counters.

    Raises:
        Refused: a number is infinite or none.
    """
    if array.dtype.kind not in ("iu" if name.endswith(_COUNTER) else "f"):
        raise Refused(f"{name!r} holds {array.dtype}, not floating-point numbers")
    values = np.array(array, np.int64 if name.endswith(_COUNTER) else np.float32, order="C")
    if not np.isfinite(values).all():
        raise Refused(f"{name!r} holds numbers that are not finite")
    return torch.from_numpy(values)


def tensors(found: Mapping[str, np.ndarray], names: Iterable[str]) -> dict[str, Tensor]:
    """See `tensor`."""
    return {name: tensor(found[name], name) for name in names}


def check_filter(kernel: np.ndarray, name: str) -> None:
    """Raises Refused unless a re-sampling filter is the one that our network has built in."""
    row = np.array(RESAMPLE_FILTER)
    if kernel.shape != (4, 4) or not np.allclose(kernel, np.outer(row, row) / 64 * 4, atol=1e-6):
        raise Refused(f"its {name!r} is not the filter 1, 3, 3, 1")
