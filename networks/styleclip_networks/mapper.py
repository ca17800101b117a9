"""StyleCLIP's latent mapper: a residual in W+ for one text that it was trained for.

Source: Patashnik et al. 2021, "StyleCLIP", section 5; the official `mapper/latent_mappers.py`
(LevelsMapper, SingleMapper). The edited latent is w + 0.1 M(w) (`mapper/scripts/inference.py`).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from styleclip_networks.constants import MAPPER_GROUPS, MAPPER_LAYERS, MAPPER_LEVELS
from styleclip_networks.stylegan2 import EqualLinear, PixelNorm


class LatentMapper(nn.Module):
    """W+ (N, L, w_dim) → M(w) (N, L, w_dim), zero in the rows of groups that it lacks.

    As in the official code, PixelNorm is over dimension 1, which here are the rows of a group.

    Args:
        groups: of `MAPPER_LEVELS`, or "single": one network for all rows.
        w_dim: width of W+.
    """

    def __init__(self, groups: Iterable[str] = MAPPER_LEVELS, w_dim: int = 512) -> None:
        super().__init__()
        self.groups = tuple(groups)
        for name in self.groups:
            layers = (
                EqualLinear(w_dim, w_dim, lr_mul=0.01, activate=True) for _ in range(MAPPER_LAYERS)
            )
            self.add_module(name, nn.Sequential(PixelNorm(), *layers))

    def layers(self, group: str) -> list[EqualLinear]:
        """Return the fully connected layers of a group."""
        return list(self.get_submodule(group).children())[1:]  # type: ignore[return-value]

    def forward(self, w_plus: Tensor) -> Tensor:
        residual = torch.zeros_like(w_plus)
        for name in self.groups:
            rows = MAPPER_GROUPS[name]
            residual[:, rows] = self.get_submodule(name)(w_plus[:, rows])
        return residual
