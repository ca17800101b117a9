"""PyTorch's files, read without `torch.load` and `torch.jit.load`.

There are two containers: the zip archive (since PyTorch 1.6; a TorchScript archive also has code,
which is not read) and the older stream of pickles and raw storages, which also appears inside
NVIDIA's pickles. Layouts: PyTorch's `torch/serialization.py` and `torch/csrc/jit/serialization/`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import numpy as np

from styleclip_export.checkpoints import zip_archive
from styleclip_export.checkpoints.nvidia_common import PERSISTENCE_GLOBALS
from styleclip_export.checkpoints.pickled_arrays import (
    SAVED_GLOBALS,
    TORCH_TENSOR_FUNCTIONS,
    FileArray,
    Storage,
    dtype_of_storage,
    rebuild_tensor,
)
from styleclip_export.checkpoints.unpickler import (
    AllowedGlobals,
    InertObject,
    PickleBudget,
    SafeUnpickler,
    UnsupportedFile,
)

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of a file older than PyTorch 1.6
LEGACY_START = b"\x80\x02\x8a\x0a" + _LEGACY_MAGIC.to_bytes(10, "little")
_MAX_PICKLE_BYTES = 64 << 20  # of an archive's data.pkl

_ARCHIVE_GLOBALS: AllowedGlobals = {
    **SAVED_GLOBALS,
    **PERSISTENCE_GLOBALS,  # a network saved as an object, as PTI does
    "__torch__.": InertObject,
    **{
        f"torch.jit._pickle.{name}": lambda value, *_: value
        for name in (
            "build_intlist",
            "build_doublelist",
            "build_boollist",
            "build_tensorlist",
            "restore_type_tag",
        )
    },
}


@contextmanager
def map_file(path: Path) -> Iterator[memoryview]:
    """Map a file into memory. Views of it keep the mapping alive."""
    if path.stat().st_size == 0:
        yield memoryview(b"")
        return
    with path.open("rb") as stream:
        yield memoryview(mmap(stream.fileno(), 0, access=ACCESS_READ))


def read(data: memoryview) -> Any:
    """Read what `torch.save` or `torch.jit.save` wrote: plain data with a `FileArray` per tensor.

    Raises:
        UnsupportedFile: the file is neither, is damaged, or mentions a name that is not allowed.
    """
    if data[:4] == zip_archive.START:
        return _read_archive(data)
    if is_legacy(data):
        return read_legacy(data)
    raise UnsupportedFile("it is not a PyTorch file")


def is_legacy(data: memoryview) -> bool:
    """Return whether the data is in the format used before PyTorch 1.6."""
    return data[2 : len(LEGACY_START)] == LEGACY_START[2:]  # any protocol


def _read_archive(data: memoryview) -> Any:
    entries = _archive_entries(data)
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UnsupportedFile("the archive has no data.pkl, as every PyTorch file has")
    pickled = entries[pickles[0]]
    folder = pickles[0].removesuffix("data.pkl")
    if bytes(entries.get(f"{folder}byteorder", b"little")) != b"little":
        raise UnsupportedFile("it was written on a big-endian machine")
    if len(pickled) > _MAX_PICKLE_BYTES:
        raise UnsupportedFile("its data.pkl is far too large")
    storages: dict[str, Storage] = {}

    def persistent_load(persistent_id: Any) -> Storage:
        dtype, key, numel = _parse_storage_id(persistent_id)
        if key not in storages:
            view = entries.get(f"{folder}data/{key}")
            if view is None:
                raise UnsupportedFile(f"the archive lacks data/{key[:40]}, to which it refers")
            storages[key] = Storage(dtype, view)
        storage = storages[key]
        if storage.dtype != dtype or numel > storage.numel:
            raise UnsupportedFile(
                f"data/{key} has {storage.numel:,} numbers, but {numel:,} are claimed"
            )
        return storage

    return SafeUnpickler(pickled, _ARCHIVE_GLOBALS, persistent_load=persistent_load).load()


def _archive_entries(data: memoryview) -> dict[str, memoryview]:
    """Return all entries except code and its debug files."""
    return zip_archive.read_entries(
        data,
        [
            entry
            for entry in zip_archive.read_directory(data)
            if "/code/" not in entry.name and not entry.name.endswith(".debug_pkl")
        ],
    )


def read_legacy(data: memoryview, budget: PickleBudget | None = None) -> Any:
    """Read the format used before PyTorch 1.6: pickles, then one storage after the other.

    Raises:
        UnsupportedFile: see `read`.
    """
    return _LegacyReader(data, budget or PickleBudget()).read()


class _LegacyReader:
    def __init__(self, data: memoryview, budget: PickleBudget) -> None:
        self.data, self.budget, self.position = data, budget, 0
        self.storages: dict[str, tuple[Storage, int]] = {}  # key → storage, number of elements
        self.arrays: list[FileArray] = []

    def read(self) -> Any:
        self._check_header()
        functions = dict.fromkeys(TORCH_TENSOR_FUNCTIONS, self._rebuild_tensor)
        value = self._unpickle({**SAVED_GLOBALS, **PERSISTENCE_GLOBALS, **functions})
        for key in self._unpickle({}):
            self._read_storage(key)
        for array in self.arrays:
            array.check()
        return value

    def _check_header(self) -> None:
        magic = self._unpickle({})
        if magic != _LEGACY_MAGIC:
            raise UnsupportedFile("it is a pickle, but not one of PyTorch's")
        self._unpickle({})  # the version of the format
        system = self._unpickle({})
        if not isinstance(system, dict) or system.get("little_endian") is not True:
            raise UnsupportedFile("it was written on a big-endian machine")

    def _unpickle(self, allowed: AllowedGlobals) -> Any:
        unpickler = SafeUnpickler(
            self.data,
            allowed,
            position=self.position,
            persistent_load=self._persistent_load,
            budget=self.budget,
        )
        value = unpickler.load()
        self.position = unpickler.position
        return value

    def _persistent_load(self, persistent_id: Any) -> Storage:
        dtype, key, numel = _parse_storage_id(persistent_id)
        storage, claimed = self.storages.setdefault(key, (Storage(dtype), numel))
        if storage.dtype != dtype or claimed != numel:
            raise UnsupportedFile(f"storage {key[:40]} is described in two ways")
        return storage

    def _rebuild_tensor(self, *arguments: Any) -> FileArray:
        """Remember the array: it can be checked only when the storages have been read."""
        self.arrays.append(rebuild_tensor(*arguments))
        return self.arrays[-1]

    def _read_storage(self, key: Any) -> None:
        if key not in self.storages or self.storages[key][0].data is not None:
            raise UnsupportedFile("its list of storages does not fit its tensors")
        storage, claimed = self.storages[key]
        header = self.data[self.position : self.position + 8]
        (numel,) = struct.unpack("<q", header.tobytes().ljust(8, b"\0"))
        size = numel * storage.dtype.itemsize
        self.position += 8
        if numel != claimed or size < 0 or size > len(self.data) - self.position:
            raise UnsupportedFile(
                f"storage {key[:40]} claims {size:,} bytes, more than the file has"
            )
        storage.data = self.data[self.position : self.position + size]
        self.position += size


def _parse_storage_id(persistent_id: Any) -> tuple[np.dtype[Any], str, int]:
    """Parse ('storage', class, key, location, numel[, view]) into (NumPy's dtype, key, numel)."""
    if (
        not isinstance(persistent_id, tuple)
        or len(persistent_id) not in (5, 6)
        or persistent_id[0] != "storage"
    ):
        raise UnsupportedFile("it refers to tensors in an unknown way")
    _, kind, key, _, numel, *view = persistent_id
    if view not in ([], [None]):
        raise UnsupportedFile("it contains views of storages, a form older than PyTorch 0.4")
    if type(key) is not str or type(numel) is not int or numel < 0:
        raise UnsupportedFile("it refers to tensors in an unknown way")
    return dtype_of_storage(kind), key, numel
