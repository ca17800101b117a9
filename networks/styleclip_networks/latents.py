"""The truncation trick on latents in W+."""

from __future__ import annotations

import torch
from torch import Tensor


def truncate_latents(
    w_plus: Tensor, w_avg: Tensor, psi: float, cutoff: int | None = None
) -> Tensor:
    """Apply the truncation trick (StyleGAN, appendix B): w_avg + psi * (w - w_avg).

    Args:
        w_plus: (N, L, w_dim).
        w_avg: (w_dim,) or (L, w_dim).
        psi: 1 keeps w, 0 gives the average.
        cutoff: only the first `cutoff` rows are truncated; None means all.
    """
    truncated = w_avg + psi * (w_plus - w_avg)
    if cutoff is None:
        return truncated
    return torch.cat([truncated[:, :cutoff], w_plus[:, cutoff:]], dim=1)
