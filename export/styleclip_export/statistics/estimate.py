"""How long fs3 takes here, measured on a few channels before the work is started."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from styleclip_export.progress import describe_duration
from styleclip_export.statistics.fs3 import Fs3Row, fs3_channels, fs3_rows
from styleclip_export.statistics.image_features import ImageFeatures
from styleclip_export.statistics.job import StatisticsJob

MEASURED_LAYERS = 3
MIN_REPORTED_SECONDS = 600.0


@dataclass(frozen=True)
class Estimate:
    """How long the rows of a job take.

    Attributes:
        seconds: for all of them.
        channels: how many were measured.
    """

    seconds: float
    channels: int

    def __str__(self) -> str:
        return describe_duration(self.seconds)


def estimate(job: StatisticsJob) -> Estimate:
    """Measure one channel, in one image, of a few layers from the first to the last."""
    generator, settings = job.generator, replace(job.settings, num_images=1, batch=1)
    rows = fs3_channels(generator)
    first_rows: dict[int, int] = {}
    for row, (layer, _) in enumerate(rows):
        first_rows.setdefault(layer, row)
    layers = sorted(first_rows)
    chosen = sorted({layers[round(i)] for i in np.linspace(0, len(layers) - 1, MEASURED_LAYERS)})
    size = sum(generator.style_channels)
    mean, std = np.zeros(size, np.float32), np.full(size, 0.1, np.float32)
    encode = ImageFeatures(job.clip, settings.dtype)
    seconds: dict[int, float] = {}
    for layer in reversed(chosen):  # the last one warms up, as it is the cheapest
        row = first_rows[layer]
        measured = {row} if seconds else {row, row + 1}
        seconds[layer] = _time_last(fs3_rows(generator, encode, mean, std, settings, measured))
    per_layer = np.interp([layer for layer, _ in rows], chosen, [seconds[i] for i in chosen])
    missing = list(job.missing_rows(0, job.load_part(0)))
    images = job.settings.num_images
    return Estimate(float(per_layer[missing].sum()) * images, len(chosen))


def _time_last(rows: Iterator[Fs3Row]) -> float:
    """Compute rows; return the seconds of the last."""
    start, seconds = time.monotonic(), 0.0
    for _ in rows:
        now = time.monotonic()
        start, seconds = now, now - start
    return seconds
