"""Brows, beards and lashes: short strands that grow from fixed roots."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.hair import Roots, beard_field, brow_field, smoothstep
from domains.people.head import Head
from domains.people.materials import Noise
from domains.people.mesh import HeadMesh
from domains.people.strands import Strands


class FacialHair:
    """Grows the brows, beards and lashes of heads."""

    def __init__(self, mesh: HeadMesh, noise: Noise, brow: Roots, beard: Roots) -> None:
        self.mesh, self.noise, self.device = mesh, noise, mesh.device
        self.brow, self.beard = brow, beard
        self.beard_lips = beard.interpolate(mesh.vertex_masks)[:, 0]

    def _select(
        self,
        roots: Roots,
        density: Tensor,
        positions: Tensor,
        normals: Tensor,
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor, Tensor]:
        chosen = torch.rand(len(density), generator=generator, device=self.device) < density
        normal = F.normalize(roots.interpolate(normals)[chosen], dim=1)
        return roots.interpolate(positions)[chosen], normal, roots.rest[chosen]

    def _straight(
        self,
        start: Tensor,
        directions: Tensor,
        lengths: Tensor,
        bend: Tensor,
        nodes: int,
        generator: torch.Generator,
    ) -> Strands:
        """Return short strands that bend toward `bend` (n, 3)."""
        t = torch.linspace(0, 1, nodes, device=self.device)[None, :, None]
        path = directions[:, None] * t + bend[:, None] * t * t
        points = start[:, None] + path * lengths[:, None, None]
        tones = 1 + 0.2 * torch.randn(len(start), generator=generator, device=self.device)
        return Strands(points, tones.clamp(0.5, 1.6), torch.ones_like(tones))

    def grow_brows(
        self, head: Head, positions: Tensor, normals: Tensor, generator: torch.Generator
    ) -> Strands:
        density = brow_field(self.brow.rest, head.brows.thickness, head.brows.height)
        start, normal, rest = self._select(self.brow, density * 0.65, positions, normals, generator)
        x = rest[:, 0]
        outward = smoothstep(x.abs(), 0.08, 0.3)
        rise = 0.95 - 1.35 * smoothstep(x.abs(), 0.1, 0.45)
        along = torch.stack([torch.sign(x) * (0.25 + outward), rise, -0.3 * outward], 1)
        along = along + 0.22 * torch.randn(along.shape, generator=generator, device=self.device)
        directions = F.normalize(F.normalize(along, dim=1) + 0.22 * normal, dim=1)
        lengths = 0.036 * (0.6 + 0.6 * torch.rand(len(x), generator=generator, device=self.device))
        return self._straight(start, directions, lengths, -0.15 * normal, 4, generator)

    def grow_beard(
        self, head: Head, positions: Tensor, normals: Tensor, generator: torch.Generator
    ) -> Strands:
        density = beard_field(self.beard.rest, self.beard_lips, head.beard.style)
        clumps = self.noise(self.beard.rest[:, :2] * 0.5 + self.beard.rest[:, 2:] * 0.21, 1.3, [2])[
            :, 0
        ]
        density = density * (0.75 + 0.25 * clumps.clamp(-1, 1))
        start, normal, rest = self._select(self.beard, density, positions, normals, generator)
        upper = smoothstep(rest[:, 1], 6.6, 6.7) * smoothstep(rest[:, 2], 1.2, 1.4)
        x = rest[:, 0]
        down = torch.stack([0.25 * x, -1.0 + 0 * x, 0.15 + 0 * x], 1)
        sideways = torch.stack(
            [torch.sign(x) * (0.3 + 2.0 * x.abs()), -0.9 + 0 * x, 0.1 + 0 * x], 1
        )
        along = F.normalize(torch.lerp(down, sideways, upper[:, None]), dim=1)
        swirl = self.noise(rest[:, :2] * 0.4 + rest[:, 2:] * 0.1, 1.0, [0, 1])
        jitter = torch.randn(along.shape, generator=generator, device=self.device)
        directions = F.normalize(along + 0.55 * normal + 0.22 * jitter, dim=1)
        directions = F.normalize(directions + 0.2 * F.pad(swirl, (0, 1)), dim=1)
        center = 0.55 + 0.45 * smoothstep(-rest[:, 1], -6.6, -6.3) * smoothstep(
            rest[:, 2], 0.8, 1.3
        )
        lengths = head.beard.length * torch.lerp(center, torch.full_like(center, 0.5), upper)
        lengths = lengths.clamp(max=0.5)
        lengths = lengths * (
            0.6 + 0.6 * torch.rand(len(x), generator=generator, device=self.device)
        )
        lengths = lengths.clamp(min=0.02) * (1 - 0.25 * upper)
        bend = -0.25 * normal + 0.2 * along
        return self._straight(start, directions, lengths, bend, 7, generator)

    def grow_lashes(self, head: Head, vertices: Tensor) -> Strands:
        nodes = []
        for index, (roots, tips) in enumerate(self.mesh.lash_rows):
            upper = index % 2 == 1
            count = 34 if upper else 12
            a, b = (self._along(vertices[ids], count) for ids in (roots, tips))
            t = torch.linspace(0, 1, 5, device=self.device)[None, :, None]
            reach = head.eyes.lash_length * (0.85 if upper else 0.4)
            path = a[:, None] + (b - a)[:, None] * t * reach
            path[..., 1] += (0.018 if upper else -0.004) * reach * t[..., 0] ** 2
            nodes.append(path)
        stack = torch.cat(nodes)
        ones = torch.ones(len(stack), device=self.device)
        return Strands(stack, ones, ones)

    def _along(self, points: Tensor, count: int) -> Tensor:
        """Interpolate a row of points (n, 3) to `count` points."""
        t = torch.linspace(0, len(points) - 1 - 1e-4, count, device=self.device)
        i = t.long()
        return torch.lerp(points[i], points[i + 1], (t - i)[:, None])
