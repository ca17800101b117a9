"""Light: an environment of many directions with shadow maps, and what pixels receive from it.

A photo's light comes from everywhere. A few dozen parallel lights, some of them close together for
a large lamp, approximate it; each has its own shadow map, so that shadows are soft.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.compilation import compiled_on_gpu
from domains.people.rasterizer import EMPTY, draw_triangles, unpack_depth
from domains.people.strands import Strands, count_steps, draw_strands_

REACH = 2.3  # decimeters around the head's center that shadow maps cover
LIGHTS_AT_ONCE = 8  # bounds memory
HAIR_SPACING = 1.2  # of the points that cast the shadow of hair, in pixels of the shadow map
MAX_STEPS = 300  # of such points along a strand


@dataclass
class Light:
    """Parallel lights: unit directions (l, 3) toward them and radiance (l, 3), linear RGB."""

    directions: Tensor
    colors: Tensor
    lamps: int  # the first so many belong to lamps, the others to the surroundings
    interleaved: bool = True

    def batches(self, pixel: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Divide the work of lighting pixels, as (lights, positions in `pixel`, weight).

        With `interleaved`, each pixel of a block of 2 x 2 receives another quarter of the lights,
        with four times the weight: the photo averages blocks, and gives all four the same weight.
        """
        lights = torch.arange(len(self.directions), device=pixel.device)
        if not self.interleaved:
            everything = torch.arange(len(pixel), device=pixel.device)
            for some in lights.split(LIGHTS_AT_ONCE):
                yield some, everything, 1.0
            return
        corner = pixel % 2 + 2 * (pixel.div(size, rounding_mode="floor") % 2)
        order = corner.argsort(stable=True)
        counts = torch.bincount(corner, minlength=4).tolist()
        for k, positions in enumerate(order.split(counts)):
            yield lights[k::4], positions, 4.0


def _frames(directions: Tensor) -> Tensor:
    """Return orthonormal frames (l, 3, 3) whose last rows are the unit directions (l, 3)."""
    up = torch.tensor([0.13, 0.97, 0.21], device=directions.device).expand_as(directions)
    x = F.normalize(torch.linalg.cross(up, directions), dim=1)
    return torch.stack([x, torch.linalg.cross(directions, x), directions], 1)


def spread_lamp(direction: Tensor, color: Tensor, size: float, count: int) -> tuple[Tensor, Tensor]:
    """Spread a lamp of angular radius `size` into `count` lights."""
    frame = _frames(F.normalize(direction, dim=0)[None])[0]
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
        hair: list[Strands],
        hair_opacity: float,
        size: int,
        generator: torch.Generator,
    ) -> None:
        self.size, self.center, self.generator = size, center, generator
        self.frames = _frames(light.directions)
        count, device = len(self.frames), positions.device
        everything = torch.arange(count, device=device)
        self.solid = torch.cat(
            [
                unpack_depth(draw_triangles(self._project(positions, some), triangles, size))
                for some in everything.split(LIGHTS_AT_ONCE)
            ]
        )
        keys = torch.full((count, size * size), EMPTY, device=device)
        counts = torch.zeros(count, size * size, device=device)
        matrices = self._matrices()
        for strands in hair:
            steps = count_steps(strands, HAIR_SPACING * 2 * REACH / size, MAX_STEPS)
            draw_strands_(keys, strands, steps, matrices, size, counts=counts)
        self.hair = unpack_depth(keys)
        self.density = 1 - torch.exp(-hair_opacity * counts)

    def _matrices(self) -> Tensor:
        """Return the projections as matrices (l, 4, 4) for `strands.draw_strands_`."""
        x, y, toward = self.frames.unbind(1)
        scale, half = self.size / (2 * REACH), self.size / 2
        rows = torch.stack([scale * x, -scale * y, torch.zeros_like(x), -toward], 1)
        offset = torch.tensor([half, half, 1.0, 2 * REACH], device=self.center.device)
        return torch.cat([rows, (offset - rows @ self.center)[..., None]], 2)

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
        if jitter:
            x = x + jitter * (torch.rand(x.shape, generator=self.generator, device=x.device) - 0.5)
            y = y + jitter * (torch.rand(x.shape, generator=self.generator, device=x.device) - 0.5)
        maps = [table[lights] for table in (self.solid, self.hair, self.density)]
        return _filter_shadows(x, y, depth + 0.5, *maps, self.size, bias)


@compiled_on_gpu
def _filter_shadows(
    x: Tensor,
    y: Tensor,
    depth: Tensor,
    solid: Tensor,
    hair: Tensor,
    density: Tensor,
    size: int,
    bias: float,
) -> Tensor:
    """Interpolate the visibility (l, n) of points between the texels (l, size * size) of maps."""
    x0, y0 = x.floor(), y.floor()
    wx, wy = x - x0, y - y0
    outside = (x < 0) | (y < 0) | (x >= size - 1) | (y >= size - 1)
    total = torch.zeros_like(depth)
    for dx in (0, 1):
        for dy in (0, 1):
            px = (x0 + dx).clamp(0, size - 1).long()
            py = (y0 + dy).clamp(0, size - 1).long()
            pixel = py * size + px
            weight = (wx if dx else 1 - wx) * (wy if dy else 1 - wy)
            lit = (depth < solid.gather(1, pixel) + bias).float()
            behind = (depth - hair.gather(1, pixel) - 0.5 * bias).clamp(min=0)
            through = 1 - density.gather(1, pixel) * (1 - torch.exp(-7.0 * behind))
            total = total + weight * lit * through
    return torch.where(outside, 1.0, total)


@compiled_on_gpu
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
