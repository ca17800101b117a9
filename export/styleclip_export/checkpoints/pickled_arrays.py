"""Arrays inside pickles, NumPy's and PyTorch's, as views that are checked before they are used.

The pickled forms are NumPy's (`numpy/core/src/multiarray/methods.c`, array_setstate) and PyTorch's
(`torch/_utils.py`, _rebuild_tensor_v2). A `FileArray` is an array that is still in the file: its
shape can be compared before anything is allocated.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from styleclip_export.checkpoints.unpickler import (
    AllowedGlobals,
    GlobalName,
    InertObject,
    UnsupportedFile,
    short_repr,
)

MAX_DIMENSIONS = 8
_MAX_EXTENT = 1 << 62  # elements in an array, or bytes between two of them
# A pickle can call functions again and again with one large argument, so those take few items only.
_MAX_ITEMS = 64

_NUMPY_TYPES = frozenset(["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "b1"])
# NumPy has no bfloat16: `state_dicts.to_float32` converts it.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])
_DTYPE_OF_STORAGE: dict[str, str | np.dtype[Any]] = {
    "torch.BFloat16Storage": BFLOAT16,
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
    """A run of numbers of one dtype; `data` is a view of the file, None until it is known."""

    def __init__(self, dtype: str | np.dtype[Any], data: memoryview | None = None) -> None:
        self.dtype, self.data = np.dtype(dtype), data

    @property
    def numel(self) -> int:
        return 0 if self.data is None else len(self.data) // self.dtype.itemsize


class FileArray:
    """An array that is still in its file.

    Attributes:
        storage: the numbers, of one dtype.
        offset: of the first element, in elements.
        shape: in elements.
        strides: in elements.
    """

    def __init__(
        self, storage: Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        if len(shape) > MAX_DIMENSIONS or len(shape) != len(strides):
            raise UnsupportedFile("it contains an array without a proper shape")
        if not all(type(n) is int and 0 <= n < _MAX_EXTENT for n in (offset, *shape, *strides)):
            raise UnsupportedFile("it contains an array without a proper shape")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.storage.dtype.itemsize

    def check(self) -> None:
        """Raise UnsupportedFile if the array claims more than its storage has."""
        size = math.prod(self.shape)
        last = self.offset + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))
        if size > self.storage.numel or (size and last >= self.storage.numel):
            raise UnsupportedFile(
                f"an array of shape {self.shape} claims {self.nbytes:,} bytes, more than the file "
                "contains for it"
            )

    def view(self) -> np.ndarray:
        """Return the numbers as a read-only view of the file."""
        self.check()
        if self.storage.data is None or not math.prod(self.shape):
            return np.empty(self.shape, self.storage.dtype)
        flat = np.frombuffer(self.storage.data, self.storage.dtype, self.storage.numel)
        itemsize = self.storage.dtype.itemsize
        return np.lib.stride_tricks.as_strided(
            flat[self.offset :], self.shape, [s * itemsize for s in self.strides], writeable=False
        )


def _as_shape(value: Any) -> tuple[Any, ...]:
    """Convert a pickled shape to a tuple; `FileArray` checks the items."""
    if not isinstance(value, tuple | list) or len(value) > MAX_DIMENSIONS:
        raise UnsupportedFile("it contains an array without a proper shape")
    return tuple(value)


def contiguous_strides(shape: tuple[int, ...], fortran: bool = False) -> tuple[int, ...]:
    strides = [1]
    for n in shape[:-1] if fortran else shape[:0:-1]:
        strides.append(strides[-1] * n)
    return tuple(strides[: len(shape)] if fortran else strides[: len(shape)][::-1])


# --- NumPy


class _PickledDtype:
    """numpy.dtype(code, align, copy); BUILD sets its byte order."""

    def __init__(self, code: Any, *_: Any) -> None:
        if not isinstance(code, str) or code not in _NUMPY_TYPES:
            raise UnsupportedFile(f"it contains a NumPy array of type {short_repr(code)}")
        self.code, self.order = code, "|" if code[1] == "1" else "<"

    def build(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) < 2 or state[1] not in ("<", ">", "|", "="):
            raise UnsupportedFile("it contains a NumPy type of an unknown form")
        self.order = state[1]

    def __str__(self) -> str:
        return self.order + self.code


class _PickledNdarray(FileArray):
    """numpy.ndarray, empty until BUILD sets dtype, shape and numbers."""

    def __init__(self, *_: Any) -> None:
        super().__init__(Storage("<f4"), 0, (0,), (1,))

    def build(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not isinstance(dtype, _PickledDtype) or not isinstance(data, memoryview):
            raise UnsupportedFile("it contains a NumPy array of objects")
        shape = _as_shape(shape)
        if not all(type(n) is int for n in shape):
            raise UnsupportedFile("it contains an array without a proper shape")
        strides = contiguous_strides(shape, bool(fortran))
        super().__init__(Storage(str(dtype), data), 0, shape, strides)
        self.check()


def _numpy_frombuffer(data: Any, dtype: Any, shape: Any, order: Any) -> _PickledNdarray:
    array = _PickledNdarray()
    array.build((1, shape, dtype, order == "F", data))
    return array


def _numpy_scalar(dtype: Any, data: Any) -> float | int | bool:
    if not isinstance(dtype, _PickledDtype) or not isinstance(data, memoryview):
        raise UnsupportedFile("it contains a NumPy number of an unknown form")
    return np.frombuffer(data, str(dtype), 1)[0].item()  # type: ignore[no-any-return]


def _encode(text: Any, encoding: Any) -> memoryview:
    """_codecs.encode, by which protocol 2 writes the bytes of a number."""
    if not isinstance(text, str) or len(text) > _MAX_ITEMS or encoding not in ("latin1", "latin-1"):
        raise UnsupportedFile("it contains bytes of an unknown form")
    return memoryview(text.encode("latin1"))


# --- Python


def empty_dict(*arguments: Any) -> dict[Any, Any]:
    """A subclass of dict, whose items follow in the pickle."""
    if any(arguments):
        raise UnsupportedFile("it contains a dictionary of an unknown form")
    return {}


def _set_of_texts(*arguments: Any) -> set[Any]:
    items = arguments[0] if arguments else []
    if (
        not isinstance(items, list)
        or len(items) > _MAX_ITEMS
        or any(type(item) is not str for item in items)
    ):
        raise UnsupportedFile("it contains a set of an unknown form")
    return set(items)


# --- PyTorch


def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> FileArray:
    """torch._utils._rebuild_tensor and _rebuild_tensor_v2, without gradients and hooks."""
    if not isinstance(storage, Storage):
        raise UnsupportedFile("it contains a tensor without numbers")
    array = FileArray(storage, offset, _as_shape(shape), _as_shape(strides))
    if storage.data is not None:
        array.check()
    return array


def dtype_of_storage(kind: Any) -> np.dtype[Any]:
    """Return NumPy's dtype for a torch storage class."""
    if not isinstance(kind, GlobalName) or kind.text not in _DTYPE_OF_STORAGE:
        raise UnsupportedFile(f"it contains tensors of the type {short_repr(kind)}")
    return np.dtype(_DTYPE_OF_STORAGE[kind.text])


_NUMPY_FUNCTIONS: AllowedGlobals = {
    "multiarray._reconstruct": _PickledNdarray,
    "multiarray.scalar": _numpy_scalar,
    "numeric._frombuffer": _numpy_frombuffer,
}
NUMPY_GLOBALS: AllowedGlobals = {
    "numpy.ndarray": None,
    "numpy.dtype": _PickledDtype,
    **{f"numpy.core.{name}": function for name, function in _NUMPY_FUNCTIONS.items()},
    **{f"numpy._core.{name}": function for name, function in _NUMPY_FUNCTIONS.items()},  # NumPy 2
    "_codecs.encode": _encode,
}
PYTHON_GLOBALS: AllowedGlobals = {
    "collections.OrderedDict": empty_dict,
    "builtins.set": _set_of_texts,
    "__builtin__.set": _set_of_texts,
    "argparse.Namespace": lambda *_: InertObject("argparse.Namespace"),
}
TORCH_TENSOR_FUNCTIONS = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2")
TORCH_GLOBALS: AllowedGlobals = {
    **dict.fromkeys(_DTYPE_OF_STORAGE),
    **dict.fromkeys(TORCH_TENSOR_FUNCTIONS, rebuild_tensor),
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch.Size": lambda sizes=(): _as_shape(sizes),
    "torch.device": lambda kind, *_: kind,
}
SAVED_GLOBALS: AllowedGlobals = {**NUMPY_GLOBALS, **PYTHON_GLOBALS, **TORCH_GLOBALS}
