"""Light: an environment of many directions with shadow maps, and what pixels receive from it.

A photo's light comes from everywhere. A few dozen parallel lights, some of them close together for
a large lamp, approximate it; each has its own shadow map, so that shadows are soft.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.head import Head
from domains.people.rasterizer import EMPTY, draw_triangles, unpack_depth
from domains.people.scene import Geometry, turn
from domains.people.tufts import Hair
from domains.people.wear import MATERIALS

REACH = 2.3  # decimeters around the head's center that shadow maps cover
LIGHTS_AT_ONCE = 4  # of each pixel, which bounds memory
HAIR_SPACING = 1.2  # of the points that cast the shadow of hair, in pixels of the shadow map
HAIR_OPACITY = 0.40  # of a point


@dataclass
class Lights:
    """The parallel lights of a batch; heads with fewer lights than others have dark ones.

    Attributes:
        directions: (h, l, 3), unit, toward the lights; colors: (h, l, 3), radiance, linear RGB.
        lamps: (h,), the first so many belong to lamps, the others to the surroundings.
        interleaved: each pixel of a block of 2 x 2 receives another quarter of the lights, with
            four times the weight: the photo averages blocks, and gives all four the same weight.
    """

    directions: Tensor
    colors: Tensor
    lamps: Tensor
    interleaved: bool = True

    @property
    def total(self) -> Tensor:
        """The sum of all radiances (h, 3)."""
        return self.colors.sum(1)

    def of_pixels(self, head: Tensor, pixel: Tensor, size: int) -> Iterator[Incident]:
        """Yield some of the lights of pixels (p,) of heads (p,) after the other."""
        count = self.directions.shape[1]
        corner = pixel % 2 + 2 * (pixel.div(size, rounding_mode="floor") % 2)
        groups = 4 if self.interleaved else 1
        first = corner if self.interleaved else torch.zeros_like(corner)
        for start in range(0, count // groups, LIGHTS_AT_ONCE):
            some = torch.arange(
                start, min(start + LIGHTS_AT_ONCE, count // groups), device=head.device
            )
            light = first + some[:, None] * groups
            index = head * count + light
            yield Incident(
                index,
                self.directions.view(-1, 3)[index],
                self.colors.view(-1, 3)[index] * float(groups),
                light < self.lamps[head],
            )


@dataclass
class Incident:
    """Light that arrives at p pixels from n of each one's lights.

    Attributes:
        index: int64 (n, p), among the lights of all heads.
        directions, radiance: (n, p, 3); lamps: bool (n, p), whether it belongs to a lamp.
    """

    index: Tensor
    directions: Tensor
    radiance: Tensor
    lamps: Tensor


def frames_toward(directions: Tensor) -> Tensor:
    """Return orthonormal frames (..., 3, 3) whose last rows are the unit directions (..., 3)."""
    up = torch.tensor([0.13, 0.97, 0.21], device=directions.device).expand_as(directions)
    x = F.normalize(torch.linalg.cross(up, directions), dim=-1)
    return torch.stack([x, torch.linalg.cross(directions, x), directions], -2)


def spread_lamp(direction: Tensor, color: Tensor, size: float, count: int) -> tuple[Tensor, Tensor]:
    """Spread a lamp of angular radius `size` into `count` lights."""
    frame = frames_toward(F.normalize(direction, dim=0))
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


def place_lights(
    heads: Sequence[Head], frames: Tensor, surrounding: int, interleaved: bool, device: torch.device
) -> Lights:
    """Place the lights of heads, seen by cameras with frames (h, 3, 3), on a device.

    Args:
        surrounding: number of lights of the surroundings.
    """
    directions, colors, lamps = [], [], []
    for head, frame in zip(heads, frames, strict=True):
        parts = [
            spread_lamp(
                torch.tensor(lamp.direction) @ frame,
                torch.tensor(lamp.color),
                lamp.size,
                lamp.count,
            )
            for lamp in head.lighting.lamps
        ]
        lamps.append(sum(len(d) for d, _ in parts))
        around = [
            torch.tensor(head.lighting.ambient[k]) for k in ("top", "bottom", "left", "right")
        ]
        d, c = surroundings(surrounding, *around, turn=float(head.seed % 628) / 100)
        parts.append((d @ frame, c))
        directions.append(torch.cat([d for d, _ in parts]))
        colors.append(torch.cat([c for _, c in parts]))
    total = -(-max(map(len, directions)) // 4) * 4
    packed = torch.zeros(len(heads), total, 6)
    packed[..., 2] = 1.0
    for row, d, c in zip(packed, directions, colors, strict=True):
        row[: len(d)] = torch.cat([d, c], 1)
    packed = packed.to(device)
    return Lights(
        packed[..., :3].contiguous(),
        packed[..., 3:].contiguous(),
        torch.tensor(lamps, device=device),
        interleaved,
    )


class Shadows:
    """Shadow maps of all lights: the nearest solid depth, and the depth and density of hair."""

    def __init__(
        self, lights: Lights, centers: Tensor, geometry: Geometry, hair: Hair, size: int
    ) -> None:
        self.size, self.centers = size, centers
        self.frames = frames_toward(lights.directions)
        triangles, heads = _casting(geometry)
        points = self._project_vertices(geometry.positions)
        self.solid = unpack_depth(draw_triangles(points, triangles, heads, size)).flatten()
        shape = (*lights.directions.shape[:2], size * size)
        keys = torch.full(shape, EMPTY, device=centers.device)
        counts = torch.zeros(shape, device=centers.device)
        spacing = HAIR_SPACING * 2 * REACH / size
        for head, matrices in enumerate(self._matrices()):
            hair.draw_shadow_(head, keys[head], counts[head], matrices, size, spacing)
        self.hair = unpack_depth(keys).flatten()
        self.density = (1 - torch.exp(-HAIR_OPACITY * counts)).flatten()

    def _matrices(self) -> Tensor:
        """Return the projections as matrices (h, l, 4, 4) for `strands.draw_strands_`."""
        x, y, toward = self.frames.unbind(2)
        scale, half = self.size / (2 * REACH), self.size / 2
        rows = torch.stack([scale * x, -scale * y, torch.zeros_like(x), -toward], 2)
        offset = torch.tensor([half, half, 1.0, 2 * REACH], device=self.centers.device)
        shift = offset - turn(self.centers[:, None], rows)
        return torch.cat([rows, shift[..., None]], 3)

    def _project_vertices(self, points: Tensor) -> Tensor:
        """Return pixel coordinates and depth (h, l, v, 3) of points (h, v, 3)."""
        local = turn((points - self.centers[:, None])[:, None], self.frames[:, :, None])
        return torch.stack(self._to_pixels(*local.unbind(3)), 3)

    def _to_pixels(self, x: Tensor, y: Tensor, toward: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return pixel coordinates and depth, twice REACH at the center."""
        scale = self.size / (2 * REACH)
        return x * scale + self.size / 2, self.size / 2 - y * scale, 2 * REACH - toward

    def visibility(
        self,
        light: Tensor,
        head: Tensor,
        points: Tensor,
        bias: float,
        jitter: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Return how much of lights (n, p) reaches points (p, 3) of heads (p,): 0 to 1, (n, p).

        Args:
            light: indices among the lights of all heads.
            bias: in decimeters, by how much a point may lie behind what the shadow map has.
            jitter: texels by which the lookup is shifted, (n, p) each, which blurs the edges.
        """
        offset = points - self.centers[head]
        x, y, toward = turn(offset, self.frames.view(-1, 3, 3)[light]).unbind(2)
        x, y, depth = self._to_pixels(x, y, toward)
        x, y = x - 0.5, y - 0.5
        if jitter:
            x, y = x + jitter[0], y + jitter[1]
        size, start = self.size, light * self.size**2
        x0, y0 = x.floor(), y.floor()
        wx, wy = x - x0, y - y0
        outside = (x < 0) | (y < 0) | (x >= size - 1) | (y >= size - 1)
        total = torch.zeros_like(depth)
        for dx in (0, 1):
            px = (x0 + dx).clamp(0, size - 1).long()
            for dy in (0, 1):
                pixel = start + (y0 + dy).clamp(0, size - 1).long() * size + px
                weight = (wx if dx else 1 - wx) * (wy if dy else 1 - wy)
                lit = depth < self.solid[pixel] + bias
                behind = (depth - self.hair[pixel] - 0.5 * bias).clamp(min=0)
                through = 1 - self.density[pixel] * (1 - torch.exp(-7.0 * behind))
                total += weight * lit * through
        return torch.where(outside, 1.0, total)


def _casting(geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return the triangles that cast shadows, and their heads.

    Cloth is as good as on the skin, which casts its shadow.
    """
    corners = geometry.triangles + (geometry.heads * geometry.size)[:, None]
    casts = (geometry.keep.flatten()[corners] > 0).all(1)
    casts &= geometry.material != MATERIALS.index("cloth")
    return geometry.triangles[casts], geometry.heads[casts]


def ggx(
    normal: Tensor, view: Tensor, lights: Tensor, roughness: Tensor, specular: Tensor
) -> Tensor:
    """Return the specular reflection times the cosine: (n, p).

    Walter et al. (2007), with the Fresnel term of Schlick (1994).

    Args:
        normal, view: (p, 3); lights: (n, p, 3), unit vectors; roughness, specular: (p,).
    """
    half = F.normalize(view + lights, dim=2)
    nl = (lights * normal).sum(2).clamp(0, 1)
    nv = (normal * view).sum(1).clamp(0.05, 1)
    nh = (normal * half).sum(2).clamp(0, 1)
    vh = (view * half).sum(2).clamp(0, 1)
    a2 = roughness**4
    distribution = a2 / (math.pi * (nh * nh * (a2 - 1) + 1) ** 2)
    k = (roughness + 1) ** 2 / 8
    geometry = 1 / ((nl * (1 - k) + k) * (nv * (1 - k) + k))
    fresnel = specular + (1 - specular) * (1 - vh) ** 5
    return distribution * geometry * fresnel * nl / 4
