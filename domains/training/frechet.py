"""The Fréchet distance between two sets of features (Heusel et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Compute the distance of the normal distributions of features (N, d) and (M, d)."""
    a, b = a.double().cpu(), b.double().cpu()
    covariances = torch.cov(a.T), torch.cov(b.T)
    # The trace of the root of a product is the sum of the roots of its eigenvalues.
    roots = torch.linalg.eigvals(covariances[0] @ covariances[1]).real.clamp(min=0).sqrt().sum()
    means = (a.mean(0) - b.mean(0)).square().sum()
    return float(means + covariances[0].trace() + covariances[1].trace() - 2 * roots)
