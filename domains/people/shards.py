"""Datasets of rendered heads: tar files of JPEGs with their labels, bounded in size, and resumable.

A shard `heads-<first>-<last>.tar` holds `<seed>.jpg` for its seeds and `labels.jsonl`, one line a
head. It is written under another name and renamed when it is complete, so that a shard that exists
is complete, and a run that was stopped continues after the last one.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image


def encode_jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Encode uint8 RGB (h, w, 3)."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


class ShardWriter:
    """Writes one shard after the other, each at most `max_bytes` long."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self.max_bytes = folder, max_bytes
        folder.mkdir(parents=True, exist_ok=True)
        self._images: list[tuple[int, bytes]] = []
        self._lines: list[bytes] = []
        self._size = 0

    def add(self, seed: int, jpeg: bytes, labels: dict) -> None:
        """Add a head; writes a shard when this one would make it too long."""
        line = json.dumps(labels, separators=(",", ":")).encode() + b"\n"
        size = 512 + -(-len(jpeg) // 512) * 512 + len(line)
        if self._images and self._size + size > self.max_bytes - 16384:  # headers and padding
            self.flush()
        self._images.append((seed, jpeg))
        self._lines.append(line)
        self._size += size

    def flush(self) -> None:
        """Write what was added as a shard."""
        if not self._images:
            return
        first, last = self._images[0][0], self._images[-1][0]
        path = self.folder / f"heads-{first:08d}-{last:08d}.tar"
        temporary = path.with_suffix(".partial")
        with tarfile.open(temporary, "w") as tar:
            members = [(f"{seed:08d}.jpg", jpeg) for seed, jpeg in self._images]
            for name, data in [("labels.jsonl", b"".join(self._lines)), *members]:
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        temporary.replace(path)
        self._images, self._lines, self._size = [], [], 0


def rendered_seeds(folder: Path) -> set[int]:
    """Return the seeds of a folder's complete shards, and remove what a stopped run left."""
    seeds: set[int] = set()
    for path in folder.glob("heads-*"):
        if path.suffix == ".partial":
            path.unlink()
        elif path.suffix == ".tar":
            with tarfile.open(path) as tar:
                lines = tar.extractfile("labels.jsonl")
                assert lines is not None
                seeds.update(json.loads(line)["seed"] for line in lines)
    return seeds


def read_shards(folder: Path) -> Iterator[tuple[bytes, dict]]:
    """Yield each head's JPEG and labels, in the order of the seeds."""
    for path in sorted(folder.glob("heads-*.tar")):
        with tarfile.open(path) as tar:
            lines = tar.extractfile("labels.jsonl")
            assert lines is not None
            for line in lines.read().splitlines():
                labels = json.loads(line)
                image = tar.extractfile(f"{labels['seed']:08d}.jpg")
                assert image is not None
                yield image.read(), labels
