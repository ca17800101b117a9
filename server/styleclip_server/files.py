"""Files that appear completely or not at all."""

from __future__ import annotations

from pathlib import Path


def write_atomically(path: Path, data: bytes | str) -> None:
    """Write `data` under a temporary name and rename it to `path`, creating the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(data.encode() if isinstance(data, str) else data)
    partial.replace(path)
