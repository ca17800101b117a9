"""Per-channel StyleSpace statistics of a generator, read from statistics.npz."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from styleclip_networks.stylespace import is_to_rgb

STATISTICS_FILE = "statistics.npz"


@dataclass(frozen=True)
class Statistics:
    """Statistics of the S StyleSpace channels over all modulations, toRGB included.

    Attributes:
        style_mean: (S,) float32, mean of each channel.
        style_std: (S,) float32, standard deviation of each channel.
        fs3: (R, D) float32. Each row is the direction in CLIP's space, of unit length or zero,
            that one convolution channel moves the image in. Rows are in execution order; if there
            are fewer than convolution channels, the last layers have none and are never edited.
        rows: (R,) int64, the channel in S of each row of fs3.
    """

    style_mean: np.ndarray
    style_std: np.ndarray
    fs3: np.ndarray
    rows: np.ndarray


def convolution_channels(style_channels: tuple[int, ...]) -> np.ndarray:
    """Return the StyleSpace channels of convolutions, without those of toRGB.

    Args:
        style_channels: the number of channels of each modulation, in execution order.

    Returns:
        int64 indices into S.
    """
    offsets = np.cumsum([0, *style_channels])
    layers = [
        np.arange(offsets[i], offsets[i + 1])
        for i in range(len(style_channels))
        if not is_to_rgb(i)
    ]
    return np.concatenate(layers)


def load_statistics(domain_folder: Path, style_channels: tuple[int, ...]) -> Statistics:
    """Load a domain's `statistics.npz` and check its shapes.

    Args:
        style_channels: the number of channels of each modulation, in execution order.

    Raises:
        FileNotFoundError: the file is missing.
        ValueError: its arrays do not fit `style_channels`.
    """
    path = domain_folder / STATISTICS_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: run `styleclip-export stats`")
    size = sum(style_channels)
    with np.load(path, allow_pickle=False) as data:
        mean, std = data["style_mean"].astype(np.float32), data["style_std"].astype(np.float32)
        fs3 = data["fs3"].astype(np.float32)
    channels = convolution_channels(style_channels)
    if mean.shape != (size,) or std.shape != (size,):
        raise ValueError(f"{path}: style_mean and style_std must have {size} channels")
    if fs3.ndim != 2 or len(fs3) > len(channels):
        raise ValueError(f"{path}: fs3 has shape {fs3.shape}; at most {len(channels)} rows fit")
    return Statistics(mean, std, fs3, channels[: len(fs3)])
