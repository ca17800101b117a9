"""Arrays in .npz files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from styleclip_server.files import write_atomically


def save_npz(path: Path, *, compressed: bool = False, **arrays: object) -> None:
    """Write `arrays` to an .npz file, atomically."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())
