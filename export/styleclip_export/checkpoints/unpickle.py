"""An unpickler for files from strangers.

A pickle is a program: it may call any function that it can name. This one finds nothing but the
names below; classes of NVIDIA's and TorchScript's networks become inert `Record`s, NumPy arrays
are put together here from their bytes, and the source text that some pickles carry stays text.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from styleclip_export.errors import CheckpointError
from styleclip_export.recognise import looks_like

_LARGEST = 8 * 2**30  # bytes of a pickle that is read at all
_ARRAY_KINDS = "biufc"


class Record:
    """What stands for an instance of a class that is not loaded: its `name` and its `state`."""

    name = ""
    state: Any = None

    def __init__(self, *_: Any) -> None:
        """Whatever the class was called with is not kept."""

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __repr__(self) -> str:
        return f"Record({self.name})"


class _Dict(dict):  # type: ignore[type-arg]
    """A dict subclass whose instances may carry attributes, which are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


class _DType:
    """A pickled `numpy.dtype`, of plain numbers only."""

    def __init__(self, kind: Any, *_: Any) -> None:
        if not isinstance(kind, str) or len(kind) > 4:
            raise CheckpointError(f"an array of unusual type {str(kind)[:40]!r}")
        self.kind, self.order = kind, "="

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]

    def real(self) -> np.dtype[Any]:
        dtype = np.dtype(self.kind).newbyteorder(self.order)  # type: ignore[arg-type]
        if dtype.kind not in _ARRAY_KINDS:
            raise CheckpointError(f"an array of {dtype}; numbers were expected")
        return dtype


class _Array:
    """A pickled `numpy.ndarray`; its bytes are in the file, so it is never larger than that."""

    value: np.ndarray

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if isinstance(data, list) or not isinstance(dtype, _DType):
            raise CheckpointError("an array of objects; numbers were expected")
        raw = data.encode("latin1") if isinstance(data, str) else data
        flat = np.frombuffer(raw, dtype.real())
        self.value = flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _new_array(*_: Any) -> _Array:
    return _Array()


def _scalar(dtype: Any, data: Any = b"") -> Any:
    raw = data.encode("latin1") if isinstance(data, str) else data
    return np.frombuffer(raw, dtype.real(), 1)[0]


def _persistent_object(meta: Any) -> Record:
    """NVIDIA's `torch_utils.persistence`: class name and state; its source text stays unread."""
    record = Record()
    record.name, record.state = str(meta["class_name"]), meta["state"]
    return record


def _storage(data: bytes) -> Any:
    """`torch.storage._load_from_bytes`: a file within the file."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _parameter(data: Tensor, *_: Any) -> Tensor:
    return data


def _tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    # set_ checks that the view lies within the storage.
    dtype = getattr(storage, "dtype", torch.float32)
    untyped = getattr(storage, "_untyped_storage", storage)
    return torch.empty(0, dtype=dtype).set_(untyped, offset, tuple(size), tuple(stride))


class _Type:
    """A class that is only named, as `ndarray` is for `_reconstruct`."""

    def __init__(self, *_: Any) -> None:
        raise CheckpointError("a class that may only be named is called")


_NUMPY = {"_reconstruct": _new_array, "scalar": _scalar}
_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _Type,
    ("numpy", "dtype"): _DType,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("dnnlib.util", "EasyDict"): _Dict,
    ("dnnlib", "EasyDict"): _Dict,
    ("_codecs", "encode"): lambda text, *_: text.encode("latin1"),
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): _persistent_object,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch.storage", "_load_from_bytes"): _storage,
    **{("numpy.core.multiarray", name): function for name, function in _NUMPY.items()},
    **{("numpy._core.multiarray", name): function for name, function in _NUMPY.items()},
}


class Unpickler(pickle.Unpickler):
    """Finds `_KNOWN` and `extra` names; `records(module)` names whose classes become `Record`s."""

    def __init__(
        self,
        file: Any,
        extra: dict[tuple[str, str], Any] | None = None,
        records: Callable[[str], bool] = lambda module: module.startswith("dnnlib.tflib"),
    ) -> None:
        super().__init__(file, encoding="latin1")
        self._known = _KNOWN | (extra or {})
        self._records = records

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in self._known:
            return self._known[module, name]
        if self._records(module):
            return type("Record", (Record,), {"name": f"{module}.{name}"})
        raise CheckpointError(
            f"the file wants to call {module}.{name}, which no checkpoint needs: it may be "
            "hostile; nothing of it was executed"
        )


def read_pickle(path: Path, expected: str) -> Any:
    """The contents of a pickle file, in plain containers, arrays, tensors and `Record`s.

    Raises:
        CheckpointError: it is no pickle, is damaged, or names anything unusual.
    """
    with path.open("rb") as file:
        head = file.read(512)
        if not head.startswith(b"\x80"):
            raise CheckpointError(
                f"{path} looks like {looks_like(head)}; {expected} (a pickle) was expected"
            )
        if path.stat().st_size > _LARGEST:
            raise CheckpointError(f"{path} is larger than any known checkpoint")
        file.seek(0)
        return load(file, path, expected)


def load(file: Any, path: Path, expected: str, **options: Any) -> Any:
    """`read_pickle` of an open file; `path` and `expected` are for the messages."""
    try:
        return plain(Unpickler(file, **options).load())
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except RecursionError as error:
        raise CheckpointError(f"{path}: nested deeper than any checkpoint") from error
    except Exception as error:  # pickle raises whatever its stack machine trips over
        raise CheckpointError(
            f"{path} is damaged or cut off ({type(error).__name__}: {error}); {expected} was "
            "expected: fetch it again"
        ) from error


def plain(value: Any) -> Any:
    """`value` with the stand-ins for arrays replaced by NumPy arrays, in place where possible."""
    seen: dict[int, Any] = {}

    def walk(item: Any) -> Any:
        if isinstance(item, _Array):
            return item.value
        if id(item) in seen or not isinstance(item, list | tuple | dict | Record):
            return seen.get(id(item), item)
        seen[id(item)] = item
        if isinstance(item, list):
            item[:] = [walk(x) for x in item]
        elif isinstance(item, dict):
            for key in list(item):
                item[key] = walk(item[key])
        elif isinstance(item, Record):
            item.state = walk(item.state)
        else:
            seen[id(item)] = tuple(walk(x) for x in item)
        return seen[id(item)]

    return walk(value)
