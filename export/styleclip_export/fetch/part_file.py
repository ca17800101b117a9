"""An unfinished download: `NAME.part` has the bytes so far, `NAME.part.json` their origin."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from styleclip_export.errors import FetchError


def part_path(target: Path) -> Path:
    """Return where the bytes of an unfinished download of `target` are."""
    return target.with_name(f"{target.name}.part")


def origin_path(path: Path) -> Path:
    """Return where the origin of a part file is noted."""
    return path.with_name(f"{path.name}.json")


def remove_part(path: Path) -> None:
    """Remove a part file and its origin, if they are there."""
    path.unlink(missing_ok=True)
    origin_path(path).unlink(missing_ok=True)


class PartFile:
    """A part file that is open for appending."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self._stream = path, stream

    @property
    def size(self) -> int:
        return self.path.stat().st_size

    def head(self, size: int) -> bytes:
        """Return the first bytes."""
        with self.path.open("rb") as stream:
            return stream.read(size)

    def append(self, block: bytes) -> None:
        self._stream.write(block)

    def clear(self) -> None:
        """Remove the bytes and their origin."""
        self._stream.truncate(0)
        origin_path(self.path).unlink(missing_ok=True)

    def set_origin(self, url: str, validator: str | None) -> None:
        """Note which address the bytes are from, and their version there."""
        origin = {"url": url, "validator": validator}
        origin_path(self.path).write_text(json.dumps(origin), "utf-8")

    def validator(self, url: str) -> str | None:
        """Return the noted version, if the bytes are from that address."""
        try:
            origin = json.loads(origin_path(self.path).read_text("utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(origin, dict) or origin.get("url") != url:
            return None
        return origin.get("validator")


@contextmanager
def open_part(path: Path) -> Iterator[PartFile]:
    """Open a part file: unbuffered, so that a kill loses nothing, and for this process only.

    It is removed at the end if it is empty.
    """
    with path.open("ab", buffering=0) as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FetchError(f"{path} is being written by another process; wait for it") from None
        part = PartFile(path, stream)  # type: ignore[arg-type]  # FileIO is a BinaryIO to us
        try:
            yield part
        finally:
            if part.size == 0:
                remove_part(path)
