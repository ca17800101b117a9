"""PyTorch's files, without `torch.load` and `torch.jit.load`: three containers, one reader.

The zip archive (since PyTorch 1.6; a TorchScript archive is the same with code beside, which is
left alone), the older stream of pickles and raw storages, and that stream inside NVIDIA's pickles.
Layouts as in PyTorch's `torch/serialization.py` and `torch/csrc/jit/serialization/`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from styleclip_export.checkpoints import zip_archive
from styleclip_export.checkpoints.pickled_arrays import (
    NUMPY,
    PLAIN,
    TENSORS,
    Storage,
    Stored,
    storage_type,
)
from styleclip_export.checkpoints.unpickler import Budget, Handlers, Machine, Record, Refused

MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of a file of before PyTorch 1.6
MOST_PICKLE = 64 << 20  # bytes of an archive's data.pkl

SAVED: Handlers = {**NUMPY, **PLAIN, **TENSORS}
SCRIPTED: Handlers = {
    **SAVED,
    "__torch__.": Record,
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
def mapped(path: Path) -> Iterator[memoryview]:
    """The file's bytes, not read before they are used. Whoever keeps views keeps the mapping."""
    if path.stat().st_size == 0:
        yield memoryview(b"")
        return
    with path.open("rb") as stream:
        yield memoryview(mmap(stream.fileno(), 0, access=ACCESS_READ))


def read(data: memoryview) -> Any:
    """What was saved with `torch.save` or `torch.jit.save`: plain data with `Stored` arrays.

    Raises:
        Refused: the file is neither, is damaged, or names what is not on the list.
    """
    if data[:4] == zip_archive.START:
        return read_archive(data)
    if not is_stream(data):
        raise Refused("it is none of PyTorch's files")
    return read_stream(data)


def is_stream(data: memoryview) -> bool:
    """Whether it is PyTorch's format of before 1.6: a pickle of its magic number comes first."""
    return bytes(data[2:14]) == b"\x8a\x0a" + MAGIC.to_bytes(10, "little")


def read_archive(data: memoryview) -> Any:
    """A zip archive; its entries are views, since PyTorch stores them uncompressed."""
    entries = _entries(data)
    pickles = [name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise Refused("the archive has no data.pkl, as every PyTorch file has")
    folder = pickles[0].removesuffix("data.pkl")
    if bytes(entries.get(f"{folder}byteorder", b"little")) != b"little":
        raise Refused("it was written on a big-endian machine")
    if len(entries[pickles[0]]) > MOST_PICKLE:
        raise Refused("its data.pkl is far too large")
    storages: dict[str, Storage] = {}

    def persistent(identity: Any) -> Storage:
        dtype, key, numel = _identity(identity)
        if key not in storages:
            view = entries.get(f"{folder}data/{key}")
            if view is None:
                raise Refused(f"the archive has no data/{key[:40]}, to which it refers")
            storages[key] = Storage(dtype, view)
        storage = storages[key]
        if storage.dtype != dtype or numel > storage.numel:
            raise Refused(f"data/{key} has {storage.numel:,} numbers, but {numel:,} are claimed")
        return storage

    return Machine(entries[pickles[0]], SCRIPTED, persistent=persistent).run()


def read_stream(data: memoryview, budget: Budget | None = None) -> Any:
    """The format of before PyTorch 1.6: pickles, then the storages one after the other."""
    position = 0
    budget = budget or Budget()
    storages: dict[str, tuple[Storage, int]] = {}
    arrays: list[Stored] = []

    def persistent(identity: Any) -> Storage:
        dtype, key, numel = _identity(identity)
        storage, claimed = storages.setdefault(key, (Storage(dtype), numel))
        if storage.dtype != dtype or claimed != numel:
            raise Refused(f"storage {key[:40]} is described in two ways")
        return storage

    def rebuilt(*arguments: Any) -> Stored:
        arrays.append(TENSORS["torch._utils._rebuild_tensor_v2"](*arguments))  # type: ignore[misc]
        return arrays[-1]

    names = dict(SAVED)
    for name in ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"):
        names[name] = rebuilt

    def pickle(allowed: Handlers) -> Any:
        nonlocal position
        machine = Machine(data, allowed, position=position, persistent=persistent, budget=budget)
        value = machine.run()
        position = machine.position
        return value

    if pickle({}) != MAGIC:
        raise Refused("it is a pickle, but none of PyTorch's")
    pickle({})  # the protocol's version
    system = pickle({})
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("it was written on a big-endian machine")
    value = pickle(names)
    for key in pickle({}):
        if key not in storages or storages[key][0].data is not None:
            raise Refused("its list of storages does not fit its tensors")
        storage, claimed = storages[key]
        (numel,) = struct.unpack("<q", data[position : position + 8].tobytes().ljust(8, b"\0"))
        size = numel * storage.dtype.itemsize
        position += 8
        if numel != claimed or size < 0 or size > len(data) - position:
            raise Refused(f"storage {key[:40]} claims {size:,} bytes, more than the file holds")
        storage.data = data[position : position + size]
        position += size
    for array in arrays:
        array.check()
    return value


def _identity(identity: Any) -> tuple[str, str, int]:
    """('storage', class, key, location, numel[, no view]) → NumPy's type, key, numel."""
    if not isinstance(identity, tuple) or len(identity) not in (5, 6) or identity[0] != "storage":
        raise Refused("it refers to tensors in an unknown way")
    _, kind, key, _, numel = identity[:5]
    if len(identity) == 6 and identity[5] is not None:
        raise Refused("it holds views of storages, a form of before PyTorch 0.4")
    if type(key) is not str or type(numel) is not int or numel < 0:
        raise Refused("it refers to tensors in an unknown way")
    return storage_type(kind), key, numel


def _entries(data: memoryview) -> dict[str, memoryview]:
    """What the archive holds but code and its debug files, which are left out unread."""
    return zip_archive.contents(
        data,
        [
            entry
            for entry in zip_archive.table(data)
            if "/code/" not in entry.name and not entry.name.endswith(".debug_pkl")
        ],
    )
