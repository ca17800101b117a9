"""The statistics of a domain as a resumable job, in parts that can be merged.

Rows of fs3 do not depend on each other, so a part is any subset of them: part k of n computes the
rows k, k + n, …, which spreads the expensive early layers evenly. A part's file is saved every few
seconds by an atomic rename. A job that was killed continues from there. On a CPU the numbers
are the same however it is split or resumed; on a GPU they differ by rounding.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from styleclip_export.npz_files import save_npz
from styleclip_export.progress import ReportRows
from styleclip_export.statistics.fs3 import Fs3Settings, fs3_channels, fs3_rows
from styleclip_export.statistics.fs3_part import Fs3Part
from styleclip_export.statistics.image_features import ImageFeatures
from styleclip_export.statistics.moments import style_moments
from styleclip_networks.clip import CLIP
from styleclip_networks.stylegan2 import Generator

SAVE_SECONDS = 10.0
MOMENTS = "moments.npz"


@dataclass(eq=False)
class StatisticsJob:
    """The computation of a domain's statistics.

    Attributes:
        work: folder for moments.npz and the files of the parts.
        samples: latents for the moments of S.
        parts: into how many parts fs3 is split.
        channels: compute only the first `channels` rows (a trial run); None means all.
    """

    generator: Generator
    clip: CLIP
    work: Path
    settings: Fs3Settings
    samples: int = 100_000
    parts: int = 1
    channels: int | None = None

    @cached_property
    def fingerprint(self) -> str:
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
        """Return the file of a part."""
        return self.work / f"fs3-{part}-of-{self.parts}.npz"

    def rows(self, part: int) -> range:
        """Return the rows of fs3 that a part computes."""
        return range(part, min(self.num_rows, self.channels or self.num_rows), self.parts)

    def load_part(self, part: int) -> Fs3Part:
        """Read the file of a part.

        Raises:
            StatisticsError: see `Fs3Part.load`.
        """
        width = self.clip.text_projection.shape[1]
        return Fs3Part.load(self.path(part), self.num_rows, width, self.fingerprint)

    def missing_rows(self, part: int, computed: Fs3Part) -> set[int]:
        """Return the rows of a part that `computed` does not have yet."""
        return {row for row in self.rows(part) if not computed.done[row]}

    def moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return mean and deviation of S and the average latent, computed once for all parts."""
        path = self.work / MOMENTS
        if path.is_file():
            with np.load(path, allow_pickle=False) as data:
                if str(data["key"]) == self.fingerprint:
                    return data["mean"], data["std"], data["w_avg"]
        mean, std, w_avg = style_moments(
            self.generator, self.samples, truncation=self.settings.truncation
        )
        save_npz(path, {"key": self.fingerprint, "mean": mean, "std": std, "w_avg": w_avg})
        return mean, std, w_avg

    def compute_part(self, part: int = 0, progress: ReportRows | None = None) -> None:
        """Compute the missing rows of a part.

        Args:
            progress: called with the part's rows that are done and all its rows.

        Raises:
            StatisticsError: see `Fs3Part.load`.
        """
        # cuDNN's heuristics would choose less accurate algorithms in float16.
        torch.backends.cudnn.benchmark = True
        mean, std, _ = self.moments()
        computed, path = self.load_part(part), self.path(part)
        missing, total = self.missing_rows(part, computed), len(self.rows(part))
        done = total - len(missing)
        if progress:
            progress(done, total)
        encode = ImageFeatures(self.clip, self.settings.dtype)
        rows = fs3_rows(self.generator, encode, mean, std, self.settings, missing)
        saved = time.monotonic()
        try:
            for row in rows:
                computed.add(row)
                done += 1
                if progress:
                    progress(done, total)
                if time.monotonic() - saved > SAVE_SECONDS:
                    computed.save(path)
                    saved = time.monotonic()
        finally:
            computed.save(path)  # also when interrupted

    def merge(self, target: Path) -> tuple[int, int]:
        """Write statistics.npz from the moments and the parts.

        Rows that no part has become zero rows, so the statistics of a trial can be served.

        Returns:
            rows computed, and all rows.

        Raises:
            StatisticsError: see `Fs3Part.load`.
        """
        mean, std, w_avg = self.moments()
        merged = self.load_part(0)
        for k in range(1, self.parts):
            merged.update(self.load_part(k))
        arrays = {
            "style_mean": mean,
            "style_std": std,
            "w_avg": w_avg,
            "fs3": merged.fs3.astype(np.float16),
            "change": merged.change,
        }
        provenance = {
            "origin": "computed",
            "networks_and_settings": self.fingerprint,
            "settings": str(self.settings),
            "samples": self.samples,
            "rows": int(merged.done.sum()),
        }
        write_statistics(target, arrays, provenance)
        return int(merged.done.sum()), self.num_rows


def write_statistics(
    path: Path, arrays: Mapping[str, np.ndarray], provenance: Mapping[str, object]
) -> None:
    """Write a domain's statistics.npz, with a JSON text about where they come from."""
    save_npz(path, {**arrays, "provenance": json.dumps(provenance)}, compressed=True)
