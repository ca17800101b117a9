"""How accurate a converted network must be, compared with PyTorch in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from styleclip_export.convert.random_inputs import seeded
from styleclip_networks.stylegan2 import Generator

# Largest absolute differences of networks in float32: pixel levels, and W+ and text features,
# whose standard deviation is about 1.
BOUNDS = {"stylegan2": 1.0, "e4e": 2e-4, "clip_text": 1e-4}

# In half precision.
MIN_PSNR = 45.0  # dB, of the worst image
MAX_STYLE_ERROR = 0.005  # of the worst channel of S, relative to its size
MIN_COSINE = 0.9999  # of the text features of the worst text


@dataclass(frozen=True)
class Accuracy:
    """A measure of a network's output in half precision, and the bound that it must reach.

    Attributes:
        quantity: what is measured, for messages.
        measure: (output, expected), both with a batch as first dimension, → value.
        bound: least value allowed, or the largest if `lower_is_better`.
    """

    quantity: str
    measure: Callable[[np.ndarray, np.ndarray], float]
    bound: float
    lower_is_better: bool = False

    def accepts(self, value: float) -> bool:
        """Return whether `value` reaches the bound; NaN does not."""
        return value <= self.bound if self.lower_is_better else value >= self.bound


def image_accuracy() -> Accuracy:
    """Return the accuracy required of images, uint8."""
    return Accuracy("PSNR", psnr, MIN_PSNR)


def latent_accuracy(generator: Generator) -> Accuracy:
    """Return the accuracy required of W+ for `generator`."""
    measure = style_error(generator)
    return Accuracy("movement of S", measure, MAX_STYLE_ERROR, lower_is_better=True)


def text_accuracy() -> Accuracy:
    """Return the accuracy required of text features."""
    return Accuracy("cosine", cosine, MIN_COSINE)


def psnr(output: np.ndarray, expected: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in dB of the worst image; values from 0 to 255."""
    difference = output.astype(np.float32) - expected.astype(np.float32)
    error = np.square(difference).reshape(len(output), -1).mean(1, dtype=np.float64).max()
    return float(10 * np.log10(255**2 / max(error, 1e-10)))


def cosine(output: np.ndarray, expected: np.ndarray) -> float:
    """Return the least cosine between corresponding rows."""
    a, b = output.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / norms).min())


def style_error(generator: Generator) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return the measure of how far rounding in W+ (N, L, w_dim) moves a channel of S.

    It is the root mean square of the channel's change over the N latents, divided by the root mean
    square of its values for w = mapping(z), of the channel where this ratio is largest.
    """

    @torch.no_grad()
    def measure(output: np.ndarray, expected: np.ndarray) -> float:
        with seeded():
            w = generator.mapping(torch.randn(1000, generator.w_dim))
        styles = generator.affine(w[:, None].expand(-1, generator.num_latents, -1))
        size = generator.flatten_styles(styles).square().mean(0).sqrt()
        a, b = (
            generator.flatten_styles(generator.affine(torch.from_numpy(w_plus)))
            for w_plus in (output, expected)
        )
        return float(((a - b).square().mean(0).sqrt() / size.clamp(min=1e-6)).max())

    return measure
