"""Statistics of batch norms whose weights are averaged."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


@torch.no_grad()
def recompute_batch_norm(network: nn.Module, batches: Iterable[Tensor]) -> None:
    """Recompute the batch norms' statistics over `batches`, as averaged weights require."""
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    for images in batches:
        network(images)
    for norm in norms:
        norm.momentum = 0.1
