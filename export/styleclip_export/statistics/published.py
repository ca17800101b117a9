"""StyleCLIP's published statistics of a generator, checked against the generator itself.

The files do not identify their generator, so the mean and standard deviation of S, estimated over
`SAMPLES` latents of this generator, must match those of the file. StyleCLIP's `GetCode.py` samples
W with truncation 0.7 on all layers, which scales every deviation; that scale is estimated. toRGB is
not compared: NVIDIA's code scales its styles in another way, and no edit moves them, so their
moments are the estimated ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from styleclip_export.checkpoints import styleclip_npy
from styleclip_export.checkpoints.domain_files import DomainFiles, DomainNetworks
from styleclip_export.errors import StatisticsError
from styleclip_export.file_kinds import sha256_of
from styleclip_export.statistics.fs3 import fs3_channels
from styleclip_export.statistics.moments import style_moments
from styleclip_networks.stylegan2 import Generator
from styleclip_server.pipeline.style_statistics import convolution_channels

SAMPLES = 4000
# Of the worst channel. With so many samples, a mean of 6,048 channels is off by 0.07 deviations.
MAX_MEAN_ERROR = 0.2  # in deviations
MAX_STD_ERROR = 0.25  # relative
TRUNCATION_RANGE = (0.3, 1.1)  # the scale of the deviations must lie between
MAX_NORM_ERROR = 0.01  # of a row of fs3, which is a unit vector
_REMEDY = "give this generator's own, or move them away: `styleclip-export stats` computes them"


@dataclass(frozen=True)
class PublishedStatistics:
    """Published statistics, ready to be written to statistics.npz.

    Attributes:
        arrays: style_mean (S,), style_std (S,), w_avg (w_dim,) float32, fs3 (R, D) float16.
        provenance: where they come from, and how well they agree with the generator.
        summary: the same in one line.
    """

    arrays: dict[str, np.ndarray]
    provenance: dict[str, Any]
    summary: str


def find_published(files: DomainFiles, networks: DomainNetworks) -> PublishedStatistics | None:
    """Read a domain's published statistics; None unless it has both files.

    Raises:
        CheckpointError, StatisticsError: see `read_published`.
    """
    if not (files.fs3 and files.moments):
        return None
    width = networks.clip.text_projection.shape[1]
    return read_published(files.fs3, files.moments, networks.generator, networks.w_center, width)


def read_published(
    fs3_path: Path, moments_path: Path, generator: Generator, w_center: Tensor, clip_width: int
) -> PublishedStatistics:
    """Read the statistics, and check that they belong to the generator.

    Args:
        w_center: (w_dim,), the average latent.
        clip_width: D of CLIP's features.

    Raises:
        CheckpointError: a file has another format, or is damaged or hostile.
        StatisticsError: the files belong to another generator or another CLIP.
    """
    moments = styleclip_npy.read_s_mean_std(moments_path)
    _check_layers(moments_path, moments, generator)
    fs3 = styleclip_npy.read_fs3(fs3_path)
    _check_fs3(fs3_path, fs3, generator, clip_width)
    mean, std = np.concatenate(moments.means), np.concatenate(moments.deviations)
    estimated_mean, estimated_std, w_avg = style_moments(generator, SAMPLES)
    agreement = _compare(moments_path, mean, std, generator, (estimated_std, w_avg), w_center)
    conv_channels = convolution_channels(generator.style_channels)
    estimated_mean[conv_channels] = mean[conv_channels]
    estimated_std *= agreement["truncation"]
    estimated_std[conv_channels] = std[conv_channels]
    arrays = {
        "style_mean": estimated_mean,
        "style_std": estimated_std,
        "w_avg": w_avg,
        "fs3": fs3.astype(np.float16),
    }
    provenance = {
        "origin": "published files",
        "sources": {path.name: sha256_of(path) for path in (fs3_path, moments_path)},
        "samples": SAMPLES,
        "largest": agreement,
        "sampled": "moments of toRGB, average latent",
    }
    summary = (
        f"{fs3_path.name} ({fs3.shape[0]:,} channels) and {moments_path.name} belong to the "
        f"generator: over {SAMPLES:,} latents its S differs by at most "
        f"{agreement['mean']:.2g} deviations and {agreement['std']:.1%}, truncation "
        f"{agreement['truncation']:.2f}"
    )
    return PublishedStatistics(arrays, provenance, summary)


def _check_layers(path: Path, moments: styleclip_npy.StyleStatistics, generator: Generator) -> None:
    channels = [len(mean) for mean in moments.means]
    expected = list(generator.style_channels)
    if channels == expected:
        return
    pairs = enumerate(zip(channels, expected, strict=False))
    layer = next((i for i, (a, b) in pairs if a != b), min(len(channels), len(expected)))
    name = generator.layers[layer].styleclip_name if layer < len(expected) else "none"
    raise StatisticsError(
        f"{path} is of another generator: it has {sum(channels):,} channels in {len(channels)} "
        f"layers, this one {sum(expected):,} in {len(expected)}, and they differ from layer "
        f"{layer} ({name}) on; {_REMEDY}"
    )


def _check_fs3(path: Path, fs3: np.ndarray, generator: Generator, clip_width: int) -> None:
    rows = len(fs3_channels(generator))
    if fs3.shape != (rows, clip_width):
        raise StatisticsError(
            f"{path} is of another generator or CLIP: it has {fs3.shape[0]:,} rows of "
            f"{fs3.shape[1]:,}, and {rows:,} of {clip_width:,} are needed (a row for each channel "
            f"of the convolutions); {_REMEDY}"
        )
    norms = np.linalg.norm(fs3, axis=1)
    wrong = np.flatnonzero((np.abs(norms - 1) > MAX_NORM_ERROR) & (norms != 0))
    if len(wrong):
        raise StatisticsError(
            f"{path} is not StyleCLIP's fs3: row {wrong[0]} has the length {norms[wrong[0]]:.3g}, "
            "not 1"
        )


@torch.no_grad()
def _compare(
    path: Path,
    mean: np.ndarray,
    std: np.ndarray,
    generator: Generator,
    sampled: tuple[np.ndarray, np.ndarray],
    w_center: Tensor,
) -> dict[str, float]:
    """Compare the moments of the convolutions' channels; return the largest differences."""
    estimated_std, w_avg = sampled
    rows = convolution_channels(generator.style_channels)
    rows = rows[estimated_std[rows] > 0]
    ratio = std[rows] / estimated_std[rows]
    truncation = float(np.median(ratio))
    low, high = TRUNCATION_RANGE
    if not low <= truncation <= high:
        raise StatisticsError(
            f"{path} is of another generator: the deviations of its channels are {truncation:.2g} "
            f"times those of this one, {low} to {high} were expected; "
            f"{_REMEDY}"
        )
    center = w_center + truncation * (torch.from_numpy(w_avg) - w_center)
    w_plus = center.expand(1, generator.num_latents, -1)
    expected = generator.flatten_styles(generator.affine(w_plus))[0].numpy()
    mean_error = np.abs(mean[rows] - expected[rows]) / estimated_std[rows]
    std_error = np.abs(ratio / truncation - 1)
    _refuse_worst(path, generator, rows, mean_error, MAX_MEAN_ERROR, "mean", "deviations")
    _refuse_worst(path, generator, rows, std_error, MAX_STD_ERROR, "deviation", "of its size")
    return {
        "mean": float(mean_error.max()),
        "std": float(std_error.max()),
        "truncation": truncation,
    }


def _refuse_worst(
    path: Path,
    generator: Generator,
    rows: np.ndarray,
    errors: np.ndarray,
    bound: float,
    quantity: str,
    unit: str,
) -> None:
    worst = int(errors.argmax())
    if errors[worst] <= bound:
        return
    starts = np.cumsum([0, *generator.style_channels])
    layer = int(np.searchsorted(starts, rows[worst], side="right")) - 1
    raise StatisticsError(
        f"{path} is of another generator: the {quantity} of channel "
        f"{rows[worst] - starts[layer]} of {generator.layers[layer].styleclip_name} differs by "
        f"{errors[worst]:.2g} {unit} (at most {bound:g}), as do {int((errors > bound).sum()):,} of "
        f"{len(rows):,} channels; {_REMEDY}"
    )
