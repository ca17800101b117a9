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
    ) -> None:
        self.size, self.center = size, center
        self.frames = torch.stack([_frame(direction) for direction in light.directions])
        count, device = len(self.frames), positions.device
        self.solid = torch.empty(count, size * size, device=device)
        self.hair = torch.full((count, size * size), torch.inf, device=device)
        self.density = torch.zeros(count, size * size, device=device)
        for some in torch.arange(count, device=device).split(4):  # bounds memory
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

    def visibility(self, index: int, points: Tensor, bias: float, jitter: Tensor) -> Tensor:
        """Return how much of light `index` reaches points (n, 3), from 0 to 1: (n,)."""
        local = (points - self.center) @ self.frames[index].T
        scale = self.size / (2 * REACH)
        x = local[:, 0] * scale + self.size / 2 + jitter[:, 0] - 0.5
        y = self.size / 2 - local[:, 1] * scale + jitter[:, 1] - 0.5
        depth = 2 * REACH - local[:, 2]
        x0, y0 = x.floor(), y.floor()
        wx, wy = x - x0, y - y0
        outside = (x < 0) | (y < 0) | (x >= self.size - 1) | (y >= self.size - 1)
        total = torch.zeros_like(depth)
        solid, hair, density = self.solid[index], self.hair[index], self.density[index]
        for dx in (0, 1):
            for dy in (0, 1):
                px = (x0 + dx).clamp(0, self.size - 1).long()
                py = (y0 + dy).clamp(0, self.size - 1).long()
                pixel = py * self.size + px
                weight = (wx if dx else 1 - wx) * (wy if dy else 1 - wy)
                lit = (depth < solid[pixel] + bias).float()
                behind = (depth - hair[pixel] - 0.5 * bias).clamp(min=0)
                through = 1 - density[pixel] * (1 - torch.exp(-7.0 * behind))
                total += weight * lit * through
        return torch.where(outside, 1.0, total)


def ggx(normal: Tensor, view: Tensor, light: Tensor, roughness: Tensor, specular: Tensor) -> Tensor:
    """Return the specular reflection times the cosine (Walter et al. 2007, Schlick 1994): (p,)."""
    half = F.normalize(view + light, dim=1)
    nl = (normal @ light).clamp(0, 1)
    nv = (normal * view).sum(1).clamp(0.05, 1)
    nh = (normal * half).sum(1).clamp(0, 1)
    vh = (view * half).sum(1).clamp(0, 1)
    a2 = roughness**4
    distribution = a2 / (math.pi * (nh * nh * (a2 - 1) + 1) ** 2)
    k = (roughness + 1) ** 2 / 8
    geometry = 1 / ((nl * (1 - k) + k) * (nv * (1 - k) + k))
    fresnel = specular + (1 - specular) * (1 - vh) ** 5
    return distribution * geometry * fresnel * nl / 4
