"""Light: an environment of many directions with shadow maps, and what pixels receive from it.

A photo's light comes from everywhere. A few dozen parallel lights, some of them close together for
a large lamp, approximate it; each has its own shadow map, so that shadows are soft.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.rasterizer import draw_triangles, unpack_depth

REACH = 2.3  # decimeters around the head's center that shadow maps cover


@dataclass
class Light:
    """Parallel lights: unit directions (l, 3) toward them and radiance (l, 3), linear RGB."""

    directions: Tensor
    colors: Tensor
    lamps: int  # the first so many belong to lamps, the others to the surroundings

    def batches(self) -> tuple[Tensor, ...]:
        """Return the lights' indices in batches that bound memory."""
        return torch.arange(len(self.directions), device=self.directions.device).split(8)


def _frame(direction: Tensor) -> Tensor:
    up = torch.tensor([0.13, 0.97, 0.21], device=direction.device)
    x = F.normalize(torch.linalg.cross(up, direction), dim=0)
    return torch.stack([x, torch.linalg.cross(direction, x), direction])


def spread_lamp(direction: Tensor, color: Tensor, size: float, count: int) -> tuple[Tensor, Tensor]:
    """Spread a lamp of angular radius `size` into `count` lights."""
    frame = _frame(F.normalize(direction, dim=0))
    k = torch.arange(count, device=direction.device)
    radius = size * ((k + 0.5) / count).sqrt()
    angle = k * 2.399963
    local = torch.stack([radius * angle.cos(), radius * angle.sin(), torch.ones_like(radius)], 1)
    return F.normalize(local, dim=1) @ frame, color.expand(count, 3) / count


def surroundings(
    count: int, top: Tensor, bottom: Tensor, left: Tensor, right: Tensor, turn: float
) -> tuple[Tensor, Tensor]:
    """Spread light that depends smoothly on the direction over the sphere."""
    k = torch.arange(count, device=top.device) + 0.5
    y = 1 - 2 * k / count
    angle = k * 2.399963 + turn
    r = (1 - y * y).sqrt()
    directions = torch.stack([r * angle.sin(), y, r * angle.cos()], 1)
    colors = torch.lerp(bottom, top, (0.5 + 0.5 * y)[:, None])
    sideways = directions[:, :1]
    colors = colors * torch.lerp(left, right, 0.5 + 0.5 * sideways)
    return directions, colors * (math.pi * 4 / count / math.pi)


class Shadows:
    """Shadow maps of all lights: the nearest solid depth, and the depth and density of hair."""

    def __init__(
        self,
        light: Light,
        center: Tensor,
        positions: Tensor,
        triangles: Tensor,
        hair: Tensor,
        hair_opacity: float,
        size: int,
        generator: torch.Generator,
    ) -> None:
        self.size, self.center, self.generator = size, center, generator
        self.frames = torch.stack([_frame(direction) for direction in light.directions])
        count, device = len(self.frames), positions.device
        self.solid = torch.empty(count, size * size, device=device)
        self.hair = torch.full((count, size * size), torch.inf, device=device)
        self.density = torch.zeros(count, size * size, device=device)
        for some in light.batches():
            points = self._project(positions, some)
            self.solid[some] = unpack_depth(draw_triangles(points, triangles, size))
            if len(hair):
                self._add_hair(some, self._project(hair, some))
        self.density = 1 - torch.exp(-hair_opacity * self.density)

    def _add_hair(self, some: Tensor, points: Tensor) -> None:
        x, y = points[..., 0].floor().long(), points[..., 1].floor().long()
        inside = (x >= 0) & (x < self.size) & (y >= 0) & (y < self.size)
        pixel = torch.where(inside, y * self.size + x, 0)
        depth = torch.where(inside, points[..., 2], torch.inf)
        self.hair[some] = self.hair[some].scatter_reduce(1, pixel, depth, "amin")
        self.density[some] = self.density[some].scatter_add(1, pixel, inside.float())

    def _project(self, points: Tensor, lights: Tensor) -> Tensor:
        """Return (l, n, 3): pixel coordinates and depth, twice REACH at the center."""
        local = torch.einsum("lij,nj->lni", self.frames[lights], points - self.center)
        scale = self.size / (2 * REACH)
        return torch.stack(
            [
                local[..., 0] * scale + self.size / 2,
                self.size / 2 - local[..., 1] * scale,
                2 * REACH - local[..., 2],
            ],
            -1,
        )

    def visibility(self, lights: Tensor, points: Tensor, bias: float, jitter: float) -> Tensor:
        """Return how much of some lights (l,) reaches points (n, 3), from 0 to 1: (l, n).

        Args:
            lights: indices of lights.
            points: (n, 3).
            bias: in decimeters, by how much a point may lie behind what the shadow map has.
            jitter: up to how many texels the lookup is shifted at random, which blurs the edges.
        """
        x, y, depth = (self._project(points, lights) - 0.5).unbind(-1)
        depth = depth + 0.5
        if jitter:
            x = x + jitter * (torch.rand(x.shape, generator=self.generator, device=x.device) - 0.5)
            y = y + jitter * (torch.rand(x.shape, generator=self.generator, device=x.device) - 0.5)
        x0, y0 = x.floor(), y.floor()
        wx, wy = x - x0, y - y0
        outside = (x < 0) | (y < 0) | (x >= self.size - 1) | (y >= self.size - 1)
        total = torch.zeros_like(depth)
        maps = [table[lights] for table in (self.solid, self.hair, self.density)]
        for dx in (0, 1):
            for dy in (0, 1):
                px = (x0 + dx).clamp(0, self.size - 1).long()
                py = (y0 + dy).clamp(0, self.size - 1).long()
                pixel = py * self.size + px
                weight = (wx if dx else 1 - wx) * (wy if dy else 1 - wy)
                solid, hair, density = (table.gather(1, pixel) for table in maps)
                lit = (depth < solid + bias).float()
                behind = (depth - hair - 0.5 * bias).clamp(min=0)
                through = 1 - density * (1 - torch.exp(-7.0 * behind))
                total += weight * lit * through
        return torch.where(outside, 1.0, total)


def ggx(
    normal: Tensor, view: Tensor, lights: Tensor, roughness: Tensor, specular: Tensor
) -> Tensor:
    """Return the specular reflection of lights (l, 3) times the cosine at p points: (l, p).

    Walter et al. (2007), with the Fresnel term of Schlick (1994).
    """
    half = F.normalize(view + lights[:, None], dim=2)
    nl = (lights @ normal.T).clamp(0, 1)
    nv = (normal * view).sum(1).clamp(0.05, 1)
    nh = (normal * half).sum(2).clamp(0, 1)
    vh = (view * half).sum(2).clamp(0, 1)
    a2 = roughness**4
    distribution = a2 / (math.pi * (nh * nh * (a2 - 1) + 1) ** 2)
    k = (roughness + 1) ** 2 / 8
    geometry = 1 / ((nl * (1 - k) + k) * (nv * (1 - k) + k))
    fresnel = specular + (1 - specular) * (1 - vh) ** 5
    return distribution * geometry * fresnel * nl / 4
