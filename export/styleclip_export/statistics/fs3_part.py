"""Computed rows of fs3, and the file that keeps them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from styleclip_export.errors import StatisticsError
from styleclip_export.npz_files import save_npz
from styleclip_export.statistics.fs3 import Fs3Row


@dataclass
class Fs3Part:
    """Some rows of fs3.

    Attributes:
        fingerprint: of the networks and settings, see `StatisticsJob.fingerprint`.
        done: (R,) bool, the rows that are computed.
        fs3: (R, D) float32, zero where not computed.
        change: (R,) float32, mean CLIP change.
    """

    fingerprint: str
    done: np.ndarray
    fs3: np.ndarray
    change: np.ndarray

    @classmethod
    def empty(cls, rows: int, width: int, fingerprint: str = "") -> Fs3Part:
        """Create a part of which no row is computed.

        Args:
            rows, width: R and D.
        """
        return cls(
            fingerprint,
            np.zeros(rows, bool),
            np.zeros((rows, width), np.float32),
            np.zeros(rows, np.float32),
        )

    @classmethod
    def load(cls, path: Path, rows: int, width: int, fingerprint: str) -> Fs3Part:
        """Read `path`, or create an empty part if there is no such file.

        Raises:
            StatisticsError: the file is damaged, or belongs to other networks or settings.
        """
        if not path.is_file():
            return cls.empty(rows, width, fingerprint)
        try:
            with np.load(path, allow_pickle=False) as data:
                part = cls(str(data["key"]), data["done"], data["fs3"], data["change"])
        except (OSError, ValueError, KeyError) as error:
            raise StatisticsError(
                f"{path} is damaged ({error}): remove it, its rows are computed again"
            ) from error
        if part.fingerprint != fingerprint or part.fs3.shape != (rows, width):
            raise StatisticsError(
                f"{path} belongs to other networks or settings: remove it or choose another "
                "folder with --work"
            )
        return part

    def add(self, row: Fs3Row) -> None:
        """Add a computed row."""
        if row.direction is not None:
            self.fs3[row.row] = row.direction
        self.change[row.row] = row.change
        self.done[row.row] = True

    def update(self, other: Fs3Part) -> None:
        """Add the computed rows of another part."""
        self.fs3[other.done] = other.fs3[other.done]
        self.change[other.done] = other.change[other.done]
        self.done |= other.done

    def save(self, path: Path) -> None:
        """Write the part to `path`, atomically."""
        arrays = {"done": self.done, "fs3": self.fs3, "change": self.change}
        save_npz(path, {"key": self.fingerprint} | arrays)
