"""dlib's 68-point shape predictor, as published or compressed: checked, not parsed.

dlib's C++ code trusts the file that it reads, so dlib should only get the published one: header and
size must be right, and the SHA-256 shows whether it is that file.
"""

from __future__ import annotations

import bz2
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from styleclip_export.checkpoints.checkpoint_file import open_checkpoint
from styleclip_export.checkpoints.unpickler import UnsupportedFile
from styleclip_export.file_kinds import MAGIC_BYTES, sha256_of

EXPECTED = "shape_predictor_68_face_landmarks.dat (or .dat.bz2)"
SIZE = 99_693_937  # bytes of the published file; dlib-models has had no other
SHA256 = "fbdc2cb80eb9aa7a758672cbfdda32ba6300efe9b6e6c7a299ff7e736b11b92f"
_BLOCK_BYTES = 1 << 20


@dataclass(frozen=True)
class Landmarks:
    """A 68-point model on the disk."""

    path: Path
    sha256: str

    @property
    def published(self) -> bool:
        """Whether it is dlib's own file, byte for byte."""
        return self.sha256 == SHA256


def install(path: Path, target: Path) -> Landmarks:
    """Write the model to `target`, decompressed if need be, completely or not at all.

    Raises:
        CheckpointError: the file is another or damaged, or not of the published one's size.
    """
    path, target = Path(path), Path(target)
    with open_checkpoint(path, EXPECTED, ("landmarks", "bzip2")) as data:
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                _copy(path, stream, compressed=bytes(data[:3]).startswith(MAGIC_BYTES["bzip2"]))
                stream.flush()
                os.fsync(stream.fileno())
            sha256 = sha256_of(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
        return Landmarks(target, sha256)


def _copy(path: Path, target: BinaryIO, compressed: bool) -> None:
    written = 0
    with bz2.open(path, "rb") if compressed else path.open("rb") as source:
        while block := source.read(_BLOCK_BYTES):
            if not written and not block.startswith(MAGIC_BYTES["landmarks"]):
                raise UnsupportedFile("its content does not begin as dlib's model of 68 landmarks")
            written += len(block)
            if written > SIZE:
                raise UnsupportedFile(f"it contains more than the published model's {SIZE:,} bytes")
            target.write(block)
    if written != SIZE:
        raise UnsupportedFile(
            f"it contains {written:,} bytes, and the published model has {SIZE:,}"
        )
