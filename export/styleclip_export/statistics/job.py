"""The statistics of a domain as a resumable job, in parts that can be merged.

Rows of fs3 do not depend on each other, so a part is any subset of them: part k of n computes the
rows k, k + n, …, which spreads the expensive early layers evenly. A part's file is saved every few
seconds by an atomic rename. A job that was killed continues from there. On a CPU the numbers
are the same however it is split or resumed; on a GPU they differ by rounding.
"""

from __future__ import annotations

import hashlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from styleclip_export.errors import StatisticsError
from styleclip_export.statistics.fs3 import Fs3Settings, fs3_channels, fs3_rows
from styleclip_export.statistics.image_features import ImageFeatures
from styleclip_export.statistics.moments import style_moments
from styleclip_networks.clip import CLIP
from styleclip_networks.stylegan2 import Generator

SAVE_SECONDS = 10.0
MOMENTS = "moments.npz"

Progress = Callable[[int, int], None]


@dataclass
class PartFile:
    """The content of a part's file.

    Attributes:
        key: fingerprint of the networks and settings.
        done: (R,) bool, the rows that are computed.
        fs3: (R, D) float32, zero where not computed.
        change: (R,) float32, mean CLIP change.
    """

    key: str
    done: np.ndarray
    fs3: np.ndarray
    change: np.ndarray
    saved: float = field(default_factory=time.monotonic)

    @classmethod
    def load(cls, path: Path, key: str, rows: int, width: int) -> PartFile:
        """Reads `path`, or creates an empty part if there is no such file.

        Raises:
            StatisticsError: the file is damaged, or belongs to other networks or settings.
        """
        if not path.is_file():
            return cls(
                key,
                np.zeros(rows, bool),
                np.zeros((rows, width), np.float32),
                np.zeros(rows, np.float32),
            )
        try:
            with np.load(path, allow_pickle=False) as data:
                part = cls(str(data["key"]), data["done"], data["fs3"], data["change"])
        except (OSError, ValueError, KeyError) as error:
            raise StatisticsError(
                f"{path} is damaged ({error}): remove it, its rows are computed again"
            ) from error
        if part.key != key or part.fs3.shape != (rows, width):
            raise StatisticsError(
                f"{path} belongs to other networks or settings: remove it or choose another "
                "folder with --work"
            )
        return part

    def save(self, path: Path) -> None:
        """Writes the part to `path`, atomically."""
        _save_npz(path, np.savez, key=self.key, done=self.done, fs3=self.fs3, change=self.change)
        self.saved = time.monotonic()


@dataclass(frozen=True, eq=False)
class StatisticsJob:
    """The computation of a domain's statistics.

    Attributes:
        work: folder for moments.npz and the files of the parts.
        samples: latents for the moments of S.
        parts: into how many parts fs3 is split.
        channels: compute only the first so many rows, as a trial; None means all.
    """

    generator: Generator
    clip: CLIP
    work: Path
    settings: Fs3Settings
    samples: int = 100_000
    parts: int = 1
    channels: int | None = None

    @cached_property
    def key(self) -> str:
        """A hash of all weights and of every setting that changes the numbers."""
        digest = hashlib.sha256(json.dumps([str(self.settings), self.samples]).encode())
        for network in (self.generator, self.clip):
            for name, tensor in sorted(network.state_dict().items()):
                digest.update(name.encode())
                values = tensor.detach().cpu().contiguous().flatten()
                digest.update(values.view(torch.uint8).numpy())
        return digest.hexdigest()

    @cached_property
    def num_rows(self) -> int:
        """R, the rows of fs3."""
        return len(fs3_channels(self.generator))

    def path(self, part: int) -> Path:
        """The file of a part."""
        return self.work / f"fs3-{part}-of-{self.parts}.npz"

    def rows(self, part: int) -> range:
        """The rows of fs3 that a part computes."""
        return range(part, min(self.num_rows, self.channels or self.num_rows), self.parts)

    def load_part(self, part: int) -> PartFile:
        """Reads the file of a part; raises as `PartFile.load`."""
        width = self.clip.text_projection.shape[1]
        return PartFile.load(self.path(part), self.key, self.num_rows, width)

    def missing_rows(self, part: int) -> set[int]:
        """The rows of a part that are not computed yet; raises as `PartFile.load`."""
        done = self.load_part(part).done
        return {row for row in self.rows(part) if not done[row]}

    def moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean and deviation of S and the average latent, computed once for all parts."""
        path = self.work / MOMENTS
        if path.is_file():
            with np.load(path, allow_pickle=False) as data:
                if str(data["key"]) == self.key:
                    return data["mean"], data["std"], data["w_avg"]
        mean, std, w_avg = style_moments(self.generator, self.samples)
        _save_npz(path, np.savez, key=self.key, mean=mean, std=std, w_avg=w_avg)
        return mean, std, w_avg

    def compute_part(self, part: int = 0, progress: Progress | None = None) -> None:
        """Computes the missing rows of a part.

        Args:
            progress: called with the part's rows that are done and all its rows.

        Raises:
            StatisticsError: see `PartFile.load`.
        """
        # cuDNN's heuristics would choose less accurate algorithms in float16.
        torch.backends.cudnn.benchmark = True
        mean, std, _ = self.moments()
        file, path = self.load_part(part), self.path(part)
        missing, total = self.missing_rows(part), len(self.rows(part))
        done = total - len(missing)
        if progress:
            progress(done, total)
        encode = ImageFeatures(self.clip, self.settings.dtype)
        rows = fs3_rows(self.generator, encode, mean, std, self.settings, missing)
        try:
            for row, direction, change in rows:
                if direction is not None:
                    file.fs3[row] = direction
                file.change[row] = change
                file.done[row] = True
                done += 1
                if progress:
                    progress(done, total)
                if time.monotonic() - file.saved > SAVE_SECONDS:
                    file.save(path)
        finally:
            file.save(path)  # also when interrupted

    def merge(self, target: Path) -> tuple[int, int]:
        """Writes statistics.npz from the moments and the parts.

        Rows that no part has become zero rows, so the statistics of a trial can be served.

        Returns:
            rows computed, and all rows.

        Raises:
            StatisticsError: see `PartFile.load`.
        """
        mean, std, w_avg = self.moments()
        merged = self.load_part(0)
        for k in range(1, self.parts):
            part = self.load_part(k)
            merged.fs3[part.done] = part.fs3[part.done]
            merged.change[part.done] = part.change[part.done]
            merged.done |= part.done
        _save_npz(
            target,
            np.savez_compressed,
            style_mean=mean,
            style_std=std,
            w_avg=w_avg,
            fs3=merged.fs3.astype(np.float16),
            change=merged.change,
        )
        return int(merged.done.sum()), self.num_rows


def write_bytes(path: Path, data: bytes) -> None:
    """Writes `data` under a temporary name, then renames it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.part")
    partial.write_bytes(data)
    partial.replace(path)


def _save_npz(path: Path, save: Callable[..., None], **arrays: object) -> None:
    buffer = io.BytesIO()
    save(buffer, **arrays)
    write_bytes(path, buffer.getvalue())
