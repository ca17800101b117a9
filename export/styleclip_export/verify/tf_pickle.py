"""Cases of the TensorFlow-era generator: `tf_generator_<res>.pkl`, `.npz` and `.json`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from styleclip_export.errors import VerificationError
from styleclip_export.verify.folder import Case, Folder
from styleclip_export.verify.report import Row


def cases(folder: Folder) -> Iterator[Case]:
    for name in folder.stems("tf_generator_*.*"):
        files = tuple(f"{name}.{suffix}" for suffix in ("pkl", "npz", "json"))
        yield Case(name, files, partial(_check, folder, name))


def _check(folder: Folder, name: str) -> Iterator[Row]:
    raise VerificationError("no reader of TensorFlow pickles is there yet")
    yield
