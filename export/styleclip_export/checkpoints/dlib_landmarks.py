"""dlib's 68-point shape predictor, as it is or compressed: recognised, not parsed.

dlib reads the file itself, in C++ that trusts it. So what is handed to dlib should be the published
file: header and size are compared, and the hash tells whether it is that one.
"""

from __future__ import annotations

import bz2
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from styleclip_export import file_kinds
from styleclip_export.checkpoints import identify
from styleclip_export.checkpoints.unpickler import Refused

EXPECTED = "shape_predictor_68_face_landmarks.dat (or .dat.bz2)"
SIZE = 99_693_937  # bytes of the published file; dlib-models has had no other
SHA256 = "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f"
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Landmarks:
    """A 68-point model. published: whether it is dlib's own file, byte for byte."""

    path: Path
    sha256: str

    @property
    def published(self) -> bool:
        return self.sha256 == SHA256


def place(path: Path, target: Path) -> Landmarks:
    """Writes the model, decompressed where need be, to `target`, whole or not at all.

    Raises:
        CheckpointError: the file is another or damaged, or becomes larger than the published one.
    """
    path, target = Path(path), Path(target)
    with identify.reading(path, EXPECTED):
        identify.must_not_be_else(path, (identify.LANDMARKS, b"BZh"))
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        new = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                _copy(path, stream)
                stream.flush()
                os.fsync(stream.fileno())
            digest = file_kinds.sha256_of(new)
            new.replace(target)
        finally:
            new.unlink(missing_ok=True)
        return Landmarks(target, digest)


def _copy(path: Path, target: object) -> None:
    with path.open("rb") as plain:
        compressed = plain.read(3) == b"BZh"
    written = 0
    with bz2.open(path, "rb") if compressed else path.open("rb") as source:
        while block := source.read(_BLOCK):
            if not written and not block.startswith(identify.LANDMARKS):
                raise Refused("what it holds does not begin as dlib's model of 68 landmarks")
            written += len(block)
            if written > SIZE:
                raise Refused(f"it holds more than the {SIZE:,} bytes of the published model")
            target.write(block)  # type: ignore[attr-defined]
    if written != SIZE:
        raise Refused(f"it holds {written:,} bytes, and the published model has {SIZE:,}")
