"""Strands of hair as polylines, and points along them: drawn all, evaluated where visible."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.rasterizer import draw_points_

SAMPLED = 2048  # strands whose lengths stand for all of a kind


@dataclass
class Strands:
    """Strands of one kind.

    Attributes:
        nodes: (s, k, 3), positions from root to tip.
        tones: (s,), brightness of each strand, about 1.
        fraction: (s,), the part of each strand that is drawn.
    """

    nodes: Tensor
    tones: Tensor
    fraction: Tensor

    def sampled_lengths(self) -> Tensor:
        """Return the lengths (SAMPLED,) of some strands, NaN beyond their number."""
        nodes = self.nodes[:SAMPLED]
        lengths = torch.diff(nodes, dim=1).norm(dim=2).sum(1)
        return F.pad(lengths, (0, SAMPLED - len(nodes)), value=torch.nan)


def count_steps(length: float, spacing: float, limit: int) -> int:
    """Return how many points a strand needs for points at most `spacing` decimeters apart."""
    return max(2, min(int(length / spacing), limit))


def draw_strands_(
    keys: Tensor,
    strands: Strands,
    steps: int,
    matrices: Tensor,
    size: int,
    first: int = 0,
    counts: Tensor | None = None,
    every: int = 1,
) -> None:
    """Draw strands as points into the keys of images, int64 (images, size * size).

    Args:
        keys: as `draw_triangles` returns them; point i of strand s has the index
            first + s * steps + i.
        steps: points of a strand.
        matrices: (images, 4, 4); with (x, y, w, d) = matrix @ (position, 1), a point is drawn at
            the pixel (x / w, y / w) at depth d.
        size: side of the images.
        first: the index of the first point.
        counts: (images, size * size); each point that is drawn adds 1.
        every: draw every n-th strand, with indices as if there were no others.
    """
    nodes, fraction = strands.nodes, strands.fraction
    if keys.is_cuda:
        from domains.people import kernels

        kernels.draw_strands_(keys, counts, nodes, fraction, matrices, size, steps, first, every)
        return
    nodes, fraction = nodes[::every], fraction[::every]
    num_nodes = nodes.shape[1]
    t = torch.arange(steps, device=keys.device) / (steps - 1) * (num_nodes - 1 - 1e-4)
    node = t.long().clamp(max=num_nodes - 2)
    w = (t - node)[None, :, None]
    drawn = (t / (num_nodes - 1))[None] <= fraction[:, None]
    points = (nodes[:, node] * (1 - w) + nodes[:, node + 1] * w)[drawn]
    index = first + torch.nonzero(drawn.flatten()).squeeze(1)
    for image, matrix in enumerate(matrices):
        x, y, scale, depth = (points @ matrix[:, :3].T + matrix[:, 3]).unbind(1)
        projected = torch.stack([x / scale, y / scale, depth], 1)
        draw_points_(keys[image], projected, index, size, None if counts is None else counts[image])
