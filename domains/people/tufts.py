"""The hair of a batch of heads as points along strands: drawn all, evaluated where visible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.hair import smoothstep
from domains.people.head import Color
from domains.people.strands import Strands, count_steps, draw_strands_

POINT_SPACING = 0.75  # pixels between the points of a strand
MAX_STEPS, MAX_SHADOW_STEPS = 900, 300  # points of a strand that are drawn, that cast a shadow
SHADOW_STRANDS = 3  # one of so many strands casts a shadow


@dataclass
class Tuft:
    """Strands of one kind on a head.

    Attributes:
        casts: whether they cast a shadow.
        opacity: of the strands, which become more transparent toward their tips if it is below 1.
    """

    head: int
    strands: Strands
    color: Color
    casts: bool = True
    opacity: float = 1.0


class Hair:
    """All hair of a batch. Point i of strand s of a tuft has the index first + s * steps + i."""

    def __init__(self, tufts: Sequence[Tuft], scales: Sequence[float]) -> None:
        """Prepare the hair for views with `scales` pixels to a decimeter at each head.

        Args:
            tufts: the opaque ones first.
        """
        self.tufts = [tuft for tuft in tufts if len(tuft.strands.nodes)]
        sampled = torch.stack([tuft.strands.sampled_lengths() for tuft in self.tufts])
        self._lengths = sampled.nanquantile(0.98, dim=1).tolist()
        self._steps = [
            count_steps(length, POINT_SPACING / scales[tuft.head], MAX_STEPS)
            for tuft, length in zip(self.tufts, self._lengths, strict=True)
        ]
        self._firsts = [0]
        for tuft, steps in zip(self.tufts, self._steps, strict=True):
            self._firsts.append(self._firsts[-1] + len(tuft.strands.nodes) * steps)

    @property
    def first_translucent(self) -> int:
        """The index of the first point that is not opaque."""
        return self._firsts[sum(tuft.opacity == 1 for tuft in self.tufts)]

    def draw_(self, keys: Tensor, matrices: Tensor, size: int) -> None:
        """Draw into the keys (h, size * size) of views with projections (h, 4, 4)."""
        for tuft, steps, first in zip(self.tufts, self._steps, self._firsts, strict=False):
            rows = slice(tuft.head, tuft.head + 1)
            draw_strands_(keys[rows], tuft.strands, steps, matrices[rows], size, first)

    def draw_shadow_(
        self,
        head: int,
        keys: Tensor,
        counts: Tensor,
        matrices: Tensor,
        size: int,
        spacing: float,
    ) -> None:
        """Draw a part of a head's strands into keys and counts, see `draw_strands_`.

        Args:
            spacing: of the points, in decimeters.
        """
        for tuft, length in zip(self.tufts, self._lengths, strict=True):
            if tuft.head == head and tuft.casts:
                steps = count_steps(length, spacing, MAX_SHADOW_STEPS)
                draw_strands_(
                    keys, tuft.strands, steps, matrices, size, counts=counts, every=SHADOW_STRANDS
                )

    def points_at(self, index: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return of points (p,) positions, unit tangents, colors (p, 3), and opacities (p,)."""
        device = index.device
        nodes = torch.cat([tuft.strands.nodes.flatten(0, 1) for tuft in self.tufts])
        tones = torch.cat([tuft.strands.tones for tuft in self.tufts])
        rows, node_start, strand_start = [], 0, 0
        for tuft, steps, first in zip(self.tufts, self._steps, self._firsts, strict=False):
            strands, num_nodes = tuft.strands.nodes.shape[:2]
            rows.append((first, steps, num_nodes, node_start, strand_start))
            node_start += strands * num_nodes
            strand_start += strands
        table = torch.tensor(rows, device=device)
        tuft_of = torch.searchsorted(table[:, 0].contiguous(), index, right=True) - 1
        first, steps, num_nodes, node_start_of, strand_start_of = table[tuft_of].unbind(1)
        strand = (index - first).div(steps, rounding_mode="floor")
        step = (index - first) - strand * steps
        t = step / (steps - 1) * (num_nodes - 1 - 1e-4)
        node = torch.minimum(t.long(), num_nodes - 2)
        w = (t - node)[:, None]
        place = node_start_of + strand * num_nodes + node
        start, end = nodes[place], nodes[place + 1]
        looks = torch.tensor([(*tuft.color, tuft.opacity) for tuft in self.tufts], device=device)
        looks = looks[tuft_of]
        colors = looks[:, :3] * tones[strand_start_of + strand, None]
        tip = smoothstep(step / (steps - 1), 0.6, 1.0)
        opacity = torch.where(looks[:, 3] < 1, looks[:, 3] * (1 - 0.7 * tip), 1.0)
        return start * (1 - w) + end * w, F.normalize(end - start, dim=1), colors, opacity
