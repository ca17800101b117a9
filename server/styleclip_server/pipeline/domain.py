"""A domain as data: what the networks draw, and the StyleSpace statistics of its generator."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from styleclip_contract.domain import Domain

DOMAIN_VARIABLE = "STYLECLIP_DOMAIN"
DOMAINS_VARIABLE = "STYLECLIP_DOMAINS"
DEFAULT_DOMAIN = "avatars"


@dataclass(frozen=True)
class Statistics:
    """StyleSpace statistics, S channels over all modulations (toRGB included), R rows of fs3.

    style_mean, style_std: (S,) float32. fs3: (R, D) float32, one unit (or zero) row for each
    convolution channel in execution order; where R is smaller than the number of convolution
    channels, the last layers have no rows and never change. rows: (R,) int64, where in S the rows
    of fs3 lie.
    """

    style_mean: np.ndarray
    style_std: np.ndarray
    fs3: np.ndarray
    rows: np.ndarray


def domain_folder(model_folder: str | Path) -> Path:
    """The folder of the served domain, for the step in `model_folder`.

    The name is in the environment variable STYLECLIP_DOMAIN; "avatars" where it is not set. It
    lies in the folder that STYLECLIP_DOMAINS names; else beside the repository of the step.
    """
    name = os.environ.get(DOMAIN_VARIABLE, DEFAULT_DOMAIN)
    elsewhere = os.environ.get(DOMAINS_VARIABLE)
    return (Path(elsewhere) if elsewhere else Path(model_folder).resolve().parent.parent) / name


def load_domain(folder: Path) -> Domain:
    """Reads `domain.json`.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it lacks a field.
    """
    path = folder / "domain.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: {DOMAIN_VARIABLE} must name a domain of the model repository"
        )
    domain = Domain.from_json(path.read_text("utf-8"))
    if not domain.style_channels or not domain.num_latents:
        raise ValueError(f"{path} lacks style_channels or num_latents: convert the domain again")
    return domain


def convolution_rows(style_channels: tuple[int, ...]) -> np.ndarray:
    """Positions in S of the convolutions' channels; toRGB's (styles 1, 4, 7, …) are left out."""
    offsets = np.cumsum([0, *style_channels])
    parts = [
        np.arange(offsets[i], offsets[i + 1])
        for i in range(len(style_channels))
        if i % 3 != 1  # conv1, toRGB, then conv, conv, toRGB for each resolution
    ]
    return np.concatenate(parts)


def load_statistics(folder: Path, style_channels: tuple[int, ...]) -> Statistics:
    """Reads `statistics.npz` and checks its shapes.

    Raises:
        FileNotFoundError, ValueError: it is missing or does not fit `style_channels`.
    """
    path = folder / "statistics.npz"
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: run `styleclip-export stats`")
    size = sum(style_channels)
    with np.load(path, allow_pickle=False) as data:
        mean, std = data["style_mean"].astype(np.float32), data["style_std"].astype(np.float32)
        fs3 = data["fs3"].astype(np.float32)
    rows = convolution_rows(style_channels)
    if mean.shape != (size,) or std.shape != (size,):
        raise ValueError(f"{path}: style_mean and style_std must have {size} channels")
    if fs3.ndim != 2 or len(fs3) > len(rows):
        raise ValueError(f"{path}: fs3 has shape {fs3.shape}; at most {len(rows)} rows fit")
    return Statistics(mean, std, fs3, rows[: len(fs3)])
