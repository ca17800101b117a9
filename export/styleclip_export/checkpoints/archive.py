"""PyTorch's own files: zip archives of a pickle and raw tensors, plain or TorchScript."""

from __future__ import annotations

import argparse
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from styleclip_export.checkpoints import unpickle
from styleclip_export.checkpoints.unpickle import Record
from styleclip_export.errors import CheckpointError
from styleclip_export.recognise import looks_like

_DTYPES = {
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "DoubleStorage": torch.float64,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "BoolStorage": torch.bool,
    "ByteStorage": torch.uint8,
}
_PREFIX = "__torch__"


def read_torch(path: Path, expected: str) -> Any:
    """What `torch.save` wrote: tensors in plain containers.

    Raises:
        CheckpointError: another kind of file, a damaged one, or one that holds code.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head.startswith((b"PK\x03\x04", b"\x80")):
        raise CheckpointError(
            f"{path} looks like {looks_like(head)}; {expected} (a PyTorch file) was expected"
        )
    try:
        # Some published files keep their training options as a Namespace, which is only a record.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # zipfile, pickle and torch each have their own
        reason = str(error).strip().splitlines() or [type(error).__name__]
        unsafe = next((line for line in reason if "Unsupported" in line or "GLOBAL" in line), None)
        raise CheckpointError(
            f"{path} cannot be read as {expected}: "
            + (f"it wants to call unknown code ({unsafe.strip()[:160]}), nothing of it was executed"
               if unsafe else f"damaged or cut off ({reason[0][:160]}): fetch it again")
        ) from error  # fmt: skip


def is_torchscript(path: Path) -> bool:
    """Whether the file is a zip archive with TorchScript's code folder."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any("/code/" in name for name in archive.namelist())


def read_torchscript(path: Path, expected: str) -> dict[str, Tensor]:
    """The state_dict of a TorchScript archive, without loading its code.

    Raises:
        CheckpointError: see `read_torch`.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            (pickled,) = [n for n in archive.namelist() if n.endswith("/data.pkl")]
            root = pickled.removesuffix("data.pkl")
            module = _load(archive, root, path, expected)
    except (zipfile.BadZipFile, ValueError, KeyError) as error:
        raise CheckpointError(
            f"{path} is damaged or cut off ({error}); {expected} was expected: fetch it again"
        ) from error
    state: dict[str, Tensor] = {}
    _collect(module, "", state)
    return state


def _load(archive: zipfile.ZipFile, root: str, path: Path, expected: str) -> Any:
    storages: dict[str, torch.UntypedStorage] = {}

    class Reader(unpickle.Unpickler):
        def persistent_load(self, pid: Any) -> Any:
            kind, dtype, key, _, count = pid
            if kind != "storage" or not isinstance(dtype, torch.dtype):
                raise CheckpointError("a reference to something that is no tensor")
            if key not in storages:
                data = bytearray(archive.read(f"{root}data/{int(key)}"))
                storages[key] = torch.frombuffer(data, dtype=torch.uint8).untyped_storage()
            if storages[key].nbytes() < count * dtype.itemsize:
                raise CheckpointError("a tensor that claims more data than the file has")
            return torch.storage.TypedStorage(
                wrap_storage=storages[key], dtype=dtype, _internal=True
            )

    known: dict[tuple[str, str], Any] = {("torch", k): v for k, v in _DTYPES.items()}
    for name in ("build_intlist", "build_tensorlist", "build_boollist", "build_doublelist"):
        known["torch.jit._pickle", name] = lambda items: items
    known["torch.jit._pickle", "restore_type_tag"] = lambda value, *_: value
    with archive.open(f"{root}data.pkl") as file:
        try:
            return Reader(file, known, lambda module: module.startswith(_PREFIX)).load()
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error
        except Exception as error:
            raise CheckpointError(
                f"{path} is damaged or cut off ({type(error).__name__}: {error}); {expected} was "
                "expected: fetch it again"
            ) from error


def _collect(value: Any, prefix: str, state: dict[str, Tensor]) -> None:
    attributes = value.state if isinstance(value, Record) else value
    if not isinstance(attributes, dict):
        return
    for name, item in attributes.items():
        if isinstance(item, Tensor):
            state[prefix + name] = item
        elif isinstance(item, Record):
            _collect(item, f"{prefix}{name}.", state)
