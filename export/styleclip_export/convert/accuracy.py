"""How accurate a network in half precision must be, compared with float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from styleclip_export.convert.random_inputs import seeded
from styleclip_networks.stylegan2 import Generator

MIN_PSNR = 45.0  # dB, of the worst image
MAX_STYLE_MOVEMENT = 0.005  # of the worst channel of S, relative to its size
MIN_COSINE = 0.9999  # of the text features of the worst text


@dataclass(frozen=True)
class Accuracy:
    """A measure of a network's output, and the bound that it must reach.

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
        """Whether `value` reaches the bound; NaN does not."""
        return value <= self.bound if self.lower_is_better else value >= self.bound


def accuracies(generator: Generator) -> dict[str, Accuracy]:
    """The accuracy required of each network, by name."""
    return {
        "stylegan2": Accuracy("PSNR", psnr, MIN_PSNR),
        "e4e": Accuracy(
            "movement of S", style_movement(generator), MAX_STYLE_MOVEMENT, lower_is_better=True
        ),
        "clip_text": Accuracy("cosine", cosine, MIN_COSINE),
    }


def psnr(output: np.ndarray, expected: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of the worst image; values from 0 to 255."""
    difference = output.astype(np.float32) - expected.astype(np.float32)
    error = np.square(difference).reshape(len(output), -1).mean(1, dtype=np.float64).max()
    return float(10 * np.log10(255**2 / max(error, 1e-10)))


def cosine(output: np.ndarray, expected: np.ndarray) -> float:
    """Least cosine between corresponding rows."""
    a, b = output.astype(np.float64), expected.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / norms).min())


def style_movement(generator: Generator) -> Callable[[np.ndarray, np.ndarray], float]:
    """Returns the measure of how far rounding in W+ (N, L, w_dim) moves a channel of S.

    It is the root mean square of the channel's change over the N latents, divided by the root mean
    square of its values for w = mapping(z), of the channel where this ratio is largest.
    """

    @torch.no_grad()
    def measure(output: np.ndarray, expected: np.ndarray) -> float:
        with seeded():
            w = generator.mapping(torch.randn(1000, generator.w_dim))
        styles = generator.affine(w[:, None].expand(-1, generator.num_latents, -1))
        size = generator.flatten(styles).square().mean(0).sqrt()
        a, b = (
            generator.flatten(generator.affine(torch.from_numpy(w_plus)))
            for w_plus in (output, expected)
        )
        return float(((a - b).square().mean(0).sqrt() / size.clamp(min=1e-6)).max())

    return measure
