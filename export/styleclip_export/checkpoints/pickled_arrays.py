"""Arrays inside pickles: NumPy's and PyTorch's, as views that are checked before they are used.

The pickled forms are NumPy's (`numpy/core/src/multiarray/methods.c`, array_setstate) and PyTorch's
(`torch/_utils.py`, _rebuild_tensor_v2). A `Stored` is an array that is still in the file: its
shape can be compared before anything is allocated.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from styleclip_export.checkpoints.unpickler import Handlers, Name, Record, Refused, shown

MOST_DIMENSIONS = 8
_MOST = 1 << 62  # numbers in an array, or bytes between two of them
_NUMPY_TYPES = frozenset(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"])
TORCH_STORAGES = {
    "torch.HalfStorage": "<f2",
    "torch.FloatStorage": "<f4",
    "torch.DoubleStorage": "<f8",
    "torch.CharStorage": "<i1",
    "torch.ShortStorage": "<i2",
    "torch.IntStorage": "<i4",
    "torch.LongStorage": "<i8",
    "torch.ByteStorage": "<u1",
    "torch.BoolStorage": "|b1",
}


class Storage:
    """A run of numbers of one type; `data` is a view of the file."""

    def __init__(self, dtype: str, data: memoryview | None = None) -> None:
        self.dtype, self.data = np.dtype(dtype), data

    @property
    def numel(self) -> int:
        return 0 if self.data is None else len(self.data) // self.dtype.itemsize


class Stored:
    """An array in a file: a storage, an offset, a shape and strides (in elements)."""

    def __init__(
        self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        if len(shape) > MOST_DIMENSIONS or len(shape) != len(strides):
            raise Refused("it holds an array without a proper shape")
        if not all(type(n) is int and 0 <= n < _MOST for n in (offset, *shape, *strides)):
            raise Refused("it holds an array without a proper shape")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def check(self) -> None:
        """Raises Refused when the array claims more than its storage has."""
        size = math.prod(self.shape)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if size > self.storage.numel or (size and last >= self.storage.numel):
            raise Refused(
                f"an array of shape {self.shape} claims {self.nbytes:,} bytes, more than the file "
                "holds for it"
            )

    def view(self) -> np.ndarray:
        """The numbers, not copied."""
        self.check()
        if self.storage.data is None or not math.prod(self.shape):
            return np.empty(self.shape, self.storage.dtype)
        flat = np.frombuffer(self.storage.data, self.storage.dtype, self.storage.numel)
        step = self.storage.dtype.itemsize
        return np.lib.stride_tricks.as_strided(
            flat[self.offset :], self.shape, [s * step for s in self.strides], writeable=False
        )


def _sizes(value: Any) -> tuple[Any, ...]:
    """A pickled shape; what it holds is checked by `Stored`."""
    if not isinstance(value, tuple | list) or len(value) > MOST_DIMENSIONS:
        raise Refused("it holds an array without a proper shape")
    return tuple(value)


def _contiguous(shape: tuple[int, ...], fortran: bool = False) -> tuple[int, ...]:
    strides = [1]
    for n in shape[:-1] if fortran else shape[:0:-1]:
        strides.append(strides[-1] * n)
    return tuple(strides[: len(shape)] if fortran else strides[: len(shape)][::-1])


class _Dtype:
    """numpy.dtype(code, align, copy), and what BUILD says of its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or code not in _NUMPY_TYPES:
            raise Refused(f"it holds a NumPy array of type {shown(code)}")
        self.code, self.order = code, "|" if code[1] == "1" else "<"

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise Refused("it holds a NumPy type of an unknown form")
        self.order = state[1]

    def __str__(self) -> str:
        return self.order + self.code


class NumpyArray(Stored):
    """numpy.ndarray: empty until BUILD brings type, shape and numbers."""

    def __init__(self, *_: Any) -> None:
        super().__init__(Storage("<f4"), 0, (0,), (1,))

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _Dtype) or not isinstance(data, memoryview):
            raise Refused("it holds a NumPy array of objects")
        self._fill(data, dtype, shape, bool(fortran))

    def _fill(self, data: memoryview, dtype: _Dtype, shape: Any, fortran: bool) -> None:
        sizes = _sizes(shape)
        if not all(type(n) is int for n in sizes):
            raise Refused("it holds an array without a proper shape")
        Stored.__init__(self, Storage(str(dtype), data), 0, sizes, _contiguous(sizes, fortran))
        self.check()


def _numpy_frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> NumpyArray:
    array = NumpyArray()
    array.build((1, shape, dtype, order == "F", data))
    return array


def _numpy_scalar(dtype: Any, data: Any) -> float | int | bool:
    if not isinstance(dtype, _Dtype) or not isinstance(data, memoryview):
        raise Refused("it holds a NumPy number of an unknown form")
    return np.frombuffer(data, str(dtype), 1)[0].item()  # type: ignore[no-any-return]


# A pickle can call these again and again with one large argument, so they take small ones only.
_FEW = 64


def _encode(text: Any, encoding: Any) -> memoryview:
    """How protocol 2 writes the bytes of a number."""
    if not isinstance(text, str) or len(text) > _FEW or encoding not in ("latin1", "latin-1"):
        raise Refused("it holds bytes of an unknown form")
    return memoryview(text.encode("latin1"))


def dictionary(*arguments: Any) -> dict[Any, Any]:
    """A dictionary's subclass, whose items follow."""
    if any(arguments):
        raise Refused("it holds a dictionary of an unknown form")
    return {}


def _set(*arguments: Any) -> set[Any]:
    items = arguments[0] if arguments else []
    if not isinstance(items, list) or len(items) > _FEW or any(type(i) is not str for i in items):
        raise Refused("it holds a set of an unknown form")
    return set(items)


def tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> Stored:  # torch._utils._rebuild_tensor(_v2)
    """A torch tensor; gradients and hooks are left out."""
    if not isinstance(storage, Storage):
        raise Refused("it holds a tensor without numbers")
    stored = Stored(storage, offset, _sizes(shape), _sizes(strides))
    if storage.data is not None:
        stored.check()
    return stored


_NUMPY_FUNCTIONS: Handlers = {
    "multiarray._reconstruct": NumpyArray,
    "multiarray.scalar": _numpy_scalar,
    "numeric._frombuffer": _numpy_frombuffer,
}
NUMPY: Handlers = {
    "numpy.ndarray": None,
    "numpy.dtype": _Dtype,
    # NumPy 2 moved them.
    **{f"numpy.core.{name}": handler for name, handler in _NUMPY_FUNCTIONS.items()},
    **{f"numpy._core.{name}": handler for name, handler in _NUMPY_FUNCTIONS.items()},
    "_codecs.encode": _encode,
}
PLAIN: Handlers = {
    "collections.OrderedDict": dictionary,
    "builtins.set": _set,
    "__builtin__.set": _set,
    "argparse.Namespace": lambda *_: Record("argparse.Namespace"),
}
TENSORS: Handlers = {
    **dict.fromkeys(TORCH_STORAGES),
    "torch._utils._rebuild_tensor": tensor,
    "torch._utils._rebuild_tensor_v2": tensor,
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.Size": lambda sizes=(): _sizes(sizes),
    "torch.device": lambda kind, *_: kind,
}


def storage_type(kind: Any) -> str:
    """NumPy's type for a torch storage's class."""
    if not isinstance(kind, Name) or kind.text not in TORCH_STORAGES:
        raise Refused(f"it holds tensors of the type {shown(kind)}")
    return TORCH_STORAGES[kind.text]
