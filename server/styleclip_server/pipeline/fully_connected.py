"""StyleGAN2's fully connected layers in NumPy."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from styleclip_networks.constants import LEAKY_RELU_GAIN, LEAKY_RELU_SLOPE


def fully_connected(x: np.ndarray, layers: Iterable[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Apply linear layers, each with StyleGAN2's leaky ReLU: (N, in) → (N, out) float32.

    Args:
        layers: weight (out, in) and bias (out,) of each, with the gains of the equalized learning
            rate applied.
    """
    for weight, bias in layers:
        x = x @ weight.T + bias
        x = np.where(x < 0, LEAKY_RELU_SLOPE * x, x) * np.float32(LEAKY_RELU_GAIN)
    return x
