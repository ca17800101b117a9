"""Arrays in .npz files."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from styleclip_server.files import write_atomically


def save_npz(path: Path, arrays: Mapping[str, Any], *, compressed: bool = False) -> None:
    """Write `arrays` to an .npz file, atomically."""
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    write_atomically(path, buffer.getvalue())
