"""Mean and standard deviation of StyleSpace, and the average latent."""

from __future__ import annotations

import numpy as np
import torch

from styleclip_networks.stylegan2 import Generator

BATCH = 10_000
MIN_STD = 1e-6  # rounding gives channels that never change a deviation of about 1e-8


@torch.no_grad()
def style_moments(
    generator: Generator, samples: int = 100_000, seed: int = 0, truncation: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Estimate the moments of S over w = mapping(z), z ~ N(0, 1).

    Args:
        truncation: psi on all layers. S is affine in w, so it scales the deviations and keeps the
            mean.

    Returns:
        style_mean (S,), style_std (S,) (of the population), w_avg (w_dim,), all float32.
    """
    device = next(generator.parameters()).device
    rng = torch.Generator().manual_seed(seed)
    total = square = w_total = torch.zeros((), dtype=torch.float64, device=device)
    for start in range(0, samples, BATCH):
        z = torch.randn(min(BATCH, samples - start), generator.w_dim, generator=rng).to(device)
        w = generator.mapping(z)
        styles = generator.affine(w[:, None].expand(-1, generator.num_latents, -1))
        s = generator.flatten_styles(styles).double()
        total = total + s.sum(0)
        square = square + s.square().sum(0)
        w_total = w_total + w.double().sum(0)
    mean = total / samples
    std = (square / samples - mean.square()).clamp(min=0).sqrt()
    std[std < MIN_STD] = 0
    std *= truncation
    return tuple(x.float().cpu().numpy() for x in (mean, std, w_total / samples))  # type: ignore[return-value]
