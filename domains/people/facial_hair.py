"""Brows, beards and lashes: short strands that grow from fixed roots, those of all heads together.

Each method returns the strands of every head, in the order of the heads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.draws import Draws, rand_each, randn_each
from domains.people.hair import Roots, beard_fields, beard_style, brow_field, smoothstep
from domains.people.head import Head
from domains.people.mesh import HeadMesh
from domains.people.noise import Noise
from domains.people.strands import Strands


@dataclass
class _Selected:
    """The roots that grow hair: positions, normals and rest positions (n, 3), head (n,)."""

    counts: list[int]
    head: Tensor
    start: Tensor
    normal: Tensor
    rest: Tensor


class FacialHair:
    """Grows the brows, beards and lashes of heads."""

    def __init__(self, mesh: HeadMesh, noise: Noise, brow: Roots, beard: Roots) -> None:
        self.mesh, self.device = mesh, mesh.device
        self.brow, self.beard = brow, beard
        lips = (mesh.vertex_masks[beard.corners] * beard.weights[..., None]).sum(1)[:, 0]
        clumps = noise(beard.rest[:, :2] * 0.5 + beard.rest[:, 2:] * 0.21, 1.3, [2])[:, 0]
        density = beard_fields(beard.rest, lips)
        self._beard_density = density * (0.75 + 0.25 * clumps.clamp(-1, 1))
        self._swirl = noise(beard.rest[:, :2] * 0.4 + beard.rest[:, 2:] * 0.1, 1.0, [0, 1])
        self._root = torch.arange(len(beard.rest), device=self.device)

    def _select(
        self,
        roots: Roots,
        density: Tensor,
        positions: Tensor,
        normals: Tensor,
        draws: Sequence[Draws],
    ) -> tuple[_Selected, Tensor]:
        """Return the chosen roots, and their indices (n,), by densities (h, r)."""
        chosen = rand_each(draws, [1] * len(draws), density.shape[1]) < density
        counts = [int(n) for n in chosen.sum(1).tolist()]
        head, root = torch.nonzero(chosen).unbind(1)
        normal = F.normalize(roots.interpolate(normals, head, root), dim=1)
        start = roots.interpolate(positions, head, root)
        return _Selected(counts, head, start, normal, roots.rest[root]), root

    def _straight(
        self,
        at: _Selected,
        directions: Tensor,
        lengths: Tensor,
        bend: Tensor,
        nodes: int,
        draws: Sequence[Draws],
    ) -> list[Strands]:
        """Return short strands that bend toward `bend` (n, 3)."""
        t = torch.linspace(0, 1, nodes, device=self.device)[None, :, None]
        path = directions[:, None] * t + bend[:, None] * t * t
        points = at.start[:, None] + path * lengths[:, None, None]
        tones = (1 + 0.2 * randn_each(draws, at.counts)).clamp(0.5, 1.6)
        parts = (points, tones, torch.ones_like(tones))
        split = zip(*(part.split(at.counts) for part in parts), strict=True)
        return [Strands(*some) for some in split]

    def grow_brows(
        self, heads: Sequence[Head], positions: Tensor, normals: Tensor, draws: Sequence[Draws]
    ) -> list[Strands]:
        thickness, height = (
            torch.tensor([[getattr(head.brows, name)] for head in heads], device=self.device)
            for name in ("thickness", "height")
        )
        density = brow_field(self.brow.rest, thickness, height)
        at, _ = self._select(self.brow, density * 0.65, positions, normals, draws)
        x = at.rest[:, 0]
        outward = smoothstep(x.abs(), 0.08, 0.3)
        rise = 0.95 - 1.35 * smoothstep(x.abs(), 0.1, 0.45)
        along = torch.stack([torch.sign(x) * (0.25 + outward), rise, -0.3 * outward], 1)
        along = along + 0.22 * randn_each(draws, at.counts, 3)
        directions = F.normalize(F.normalize(along, dim=1) + 0.22 * at.normal, dim=1)
        lengths = 0.03 * (0.6 + 0.6 * rand_each(draws, at.counts))
        return self._straight(at, directions, lengths, -0.15 * at.normal, 4, draws)

    def grow_beards(
        self, heads: Sequence[Head], positions: Tensor, normals: Tensor, draws: Sequence[Draws]
    ) -> list[Strands]:
        styles = torch.tensor([beard_style(head.beard.style) for head in heads], device=self.device)
        density = self._beard_density[styles]
        at, root = self._select(self.beard, density, positions, normals, draws)
        rest = at.rest
        upper = smoothstep(rest[:, 1], 6.6, 6.7) * smoothstep(rest[:, 2], 1.2, 1.4)
        x = rest[:, 0]
        down = torch.stack([0.25 * x, -1.0 + 0 * x, 0.15 + 0 * x], 1)
        sideways = torch.stack(
            [torch.sign(x) * (0.3 + 2.0 * x.abs()), -0.9 + 0 * x, 0.1 + 0 * x], 1
        )
        along = F.normalize(torch.lerp(down, sideways, upper[:, None]), dim=1)
        jitter = randn_each(draws, at.counts, 3)
        directions = F.normalize(along + 0.55 * at.normal + 0.22 * jitter, dim=1)
        directions = F.normalize(directions + 0.2 * F.pad(self._swirl[root], (0, 1)), dim=1)
        center = 0.55 + 0.45 * smoothstep(-rest[:, 1], -6.6, -6.3) * smoothstep(
            rest[:, 2], 0.8, 1.3
        )
        usual = torch.tensor([head.beard.length for head in heads], device=self.device)
        lengths = usual[at.head] * torch.lerp(center, torch.full_like(center, 0.5), upper)
        lengths = lengths.clamp(max=0.5) * (0.6 + 0.6 * rand_each(draws, at.counts))
        lengths = lengths.clamp(min=0.02) * (1 - 0.25 * upper)
        bend = -0.25 * at.normal + 0.2 * along
        return self._straight(at, directions, lengths, bend, 7, draws)

    def grow_lashes(self, heads: Sequence[Head], vertices: Tensor) -> list[Strands]:
        length = torch.tensor([head.eyes.lash_length for head in heads], device=self.device)
        rows = []
        for index, (roots, tips) in enumerate(self.mesh.lash_rows):
            upper = index % 2 == 1
            count = 34 if upper else 12
            a, b = (self._along(vertices[:, ids], count) for ids in (roots, tips))
            t = torch.linspace(0, 1, 5, device=self.device)[:, None]
            reach = (length * (0.85 if upper else 0.4))[:, None, None, None]
            path = a[:, :, None] + (b - a)[:, :, None] * t * reach
            path[..., 1] += (0.018 if upper else -0.004) * reach[..., 0] * t[:, 0] ** 2
            rows.append(path)
        stack = torch.cat(rows, 1)
        ones = torch.ones(stack.shape[1], device=self.device)
        return [Strands(nodes, ones, ones) for nodes in stack]

    def _along(self, points: Tensor, count: int) -> Tensor:
        """Interpolate rows of points (h, n, 3) to `count` points."""
        t = torch.linspace(0, points.shape[1] - 1 - 1e-4, count, device=self.device)
        i = t.long()
        return torch.lerp(points[:, i], points[:, i + 1], (t - i)[:, None])
