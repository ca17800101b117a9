"""Random numbers of heads: parts of one table, so that drawing launches nothing on a GPU.

The same seed draws the same numbers on every device, whatever else is rendered with it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor


class NumberTable:
    """Uniform and normal random numbers on a device."""

    SIZE = 1 << 22

    def __init__(self, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(3)
        self.uniform = torch.rand(self.SIZE, generator=generator).to(device)
        self.normal = torch.randn(self.SIZE, generator=generator).to(device)


class Draws:
    """Draws numbers of a table, from places that follow from a seed. Nobody may write to them."""

    def __init__(self, table: NumberTable, seed: int) -> None:
        self._table, self._places = table, random.Random(seed)

    def rand(self, *shape: int) -> Tensor:
        """Draw numbers from 0 to 1."""
        return self._draw(self._table.uniform, shape)

    def randn(self, *shape: int) -> Tensor:
        """Draw normal numbers."""
        return self._draw(self._table.normal, shape)

    def _draw(self, numbers: Tensor, shape: tuple[int, ...]) -> Tensor:
        count = math.prod(shape)
        start = self._places.randrange((len(numbers) - count) // 4 + 1) * 4
        return numbers[start : start + count].view(shape)


def rand_each(draws: Sequence[Draws], counts: Sequence[int], *shape: int) -> Tensor:
    """Draw `counts` rows of each head, one after the other: (sum of counts, *shape)."""
    return torch.cat([d.rand(n, *shape) for d, n in zip(draws, counts, strict=True)])


def randn_each(draws: Sequence[Draws], counts: Sequence[int], *shape: int) -> Tensor:
    """Draw `counts` rows of normal numbers of each head, one after the other."""
    return torch.cat([d.randn(n, *shape) for d, n in zip(draws, counts, strict=True)])
