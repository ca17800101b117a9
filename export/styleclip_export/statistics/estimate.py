"""How long fs3 takes here, measured on a few channels before the work is started."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from styleclip_export.statistics.fs3 import fs3_channels, fs3_rows
from styleclip_export.statistics.image_features import ImageFeatures
from styleclip_export.statistics.job import StatisticsJob

MEASURED_LAYERS = 4
SECONDS_WORTH_SAYING = 600.0


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
        for unit, size in (("days", 86_400), ("hours", 3_600)):
            if self.seconds >= size:
                return f"{self.seconds / size:.1f} {unit}"
        return f"{self.seconds / 60:.0f} minutes"


def estimate(job: StatisticsJob) -> Estimate:
    """Measure one channel, in one image, of a few layers from the first to the last."""
    generator, settings = job.generator, replace(job.settings, num_images=1, batch=1)
    rows = fs3_channels(generator)
    first_rows = {layer: row for row, (layer, _) in reversed(list(enumerate(rows)))}
    layers = sorted(first_rows)
    chosen = sorted({layers[round(i)] for i in np.linspace(0, len(layers) - 1, MEASURED_LAYERS)})
    size = sum(generator.style_channels)
    unit = np.ones(size, np.float32)
    encode = ImageFeatures(job.clip, settings.dtype)
    seconds = []
    for layer in chosen:
        requested = {first_rows[layer], first_rows[layer] + 1}  # the first one also warms up
        start = time.monotonic()
        for _ in fs3_rows(generator, encode, 0 * unit, 0.1 * unit, settings, requested):
            start, before = time.monotonic(), start
        seconds.append(start - before)
    per_layer = np.interp([layer for layer, _ in rows], chosen, seconds)
    missing = job.missing_rows(0, job.load_part(0))
    images = job.settings.num_images
    return Estimate(float(per_layer[list(missing)].sum()) * images, len(chosen))
