"""The hair styles: where strands grow, in which direction, and where they end."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.hair import (
    FaceShape,
    Growth,
    HeadSurface,
    Roots,
    grow,
    scalp_field,
    skull_angles,
    smoothstep,
)
from domains.people.strands import Strands

GROWTHS = {
    "buzz cut": Growth(slack=9.0, nodes=4, gravity=0.05, jitter=0.15, volume=0.015, clump=0.0),
    "short": Growth(
        slack=0.16, nodes=9, gravity=0.13, jitter=0.06, volume=0.10, clump=0.55, locks=500
    ),
    "side-parted": Growth(
        slack=0.06, nodes=12, gravity=0.24, jitter=0.05, volume=0.12, clump=0.5, locks=350
    ),
    "bob": Growth(nodes=16, gravity=0.34, jitter=0.03, volume=0.15, clump=0.4, locks=300),
    "long": Growth(nodes=22, gravity=0.32, jitter=0.03, volume=0.13, clump=0.45, locks=260),
    "wavy": Growth(
        nodes=26, gravity=0.32, jitter=0.04, volume=0.20, curl=0.05, turns=3.2, clump=0.6, locks=160
    ),
    "curly": Growth(
        slack=9.0,
        nodes=26,
        gravity=0.05,
        jitter=0.08,
        volume=0.10,
        curl=0.045,
        turns=4.5,
        clump=0.6,
        locks=700,
    ),
    "tied back": Growth(nodes=12, gravity=0.0, jitter=0.02, volume=0.03, clump=0.3, locks=400),
}


DENSITIES = {  # share of the roots that are used: strands of short hair cover less
    "short": 0.9,
    "side-parted": 0.8,
    "bob": 0.6,
    "long": 0.5,
    "wavy": 0.5,
    "curly": 0.5,
}
_LONG = ("bob", "long", "wavy")


@dataclass
class Cut:
    """How a head's hair is cut and combed.

    Attributes:
        style: a key of GROWTHS.
        length: scale of the style's length, about 1.
        part: where the parting lies, in decimeters to the left of the middle.
        fringe: whether hair falls on the forehead.
        recession: how far the hairline recedes, in radians.
        cover: (r,) for each root how deep it lies under a hat, in decimeters; None without a hat.
    """

    style: str
    length: float
    part: float
    fringe: bool
    recession: float
    cover: Tensor | None


class Scalp:
    """The roots of a head's hair: positions and normals on the head and on the base mesh."""

    def __init__(
        self,
        cut: Cut,
        roots: Roots,
        positions: Tensor,
        normals: Tensor,
        generator: torch.Generator,
    ) -> None:
        self.generator, device = generator, roots.rest.device
        noise = torch.randn(len(roots.rest), generator=generator, device=device)
        chosen = scalp_field(roots.rest, cut.recession) + 0.03 * noise > 0.0
        chosen[int(DENSITIES.get(cut.style, 1.0) * len(chosen)) :] = False
        if cut.cover is not None:
            chosen &= cut.cover < 0.16
        self.start = roots.interpolate(positions)[chosen]
        self.normal = F.normalize(roots.interpolate(normals)[chosen], dim=1)
        self.rest, self.noise = roots.rest[chosen], noise[chosen]
        self.azimuth, self.elevation = skull_angles(self.rest)
        self.top = smoothstep(self.elevation, 0.35, 1.0)
        self.front = smoothstep(self.rest[:, 2], 0.5, 1.2)

    def __len__(self) -> int:
        return len(self.start)

    def rand(self) -> Tensor:
        """Draw a number from 0 to 1 for each root."""
        return torch.rand(len(self), generator=self.generator, device=self.rest.device)

    def randn(self) -> Tensor:
        """Draw a normal number for each root."""
        return torch.randn(len(self), generator=self.generator, device=self.rest.device)

    def vectors(self, x: Tensor | float, y: Tensor | float, z: Tensor | float) -> Tensor:
        """Return vectors (n, 3) of components that are numbers or (n,)."""
        device = self.rest.device
        return torch.stack(
            [torch.as_tensor(v, device=device).expand(len(self)) for v in (x, y, z)], 1
        )

    def side(self, part: float) -> Tensor:
        """Return on which side of the parting roots lie, -1 to 1."""
        x, z = self.rest[:, 0], self.rest[:, 2]
        line = part + 0.025 * torch.sin(7 * z)
        return torch.tanh((x - line + 0.012 * self.noise) / 0.02)


Combed = tuple[Tensor, Tensor]  # directions (n, 3), not unit, and lengths (n,)


def _buzz(scalp: Scalp, cut: Cut) -> Combed:
    directions = scalp.normal + 0.3 * scalp.vectors(0.0, 0.0, 1.0)
    return directions, 0.035 * cut.length * (0.7 + 0.5 * scalp.rand())


def _short(scalp: Scalp, cut: Cut) -> Combed:
    top = scalp.top[:, None]
    sweep = scalp.vectors(math.copysign(0.4, cut.part), 0.4, 0.4 - 0.6 * scalp.front)
    directions = scalp.normal * (0.45 + 0.3 * top) + sweep * (0.4 + 0.6 * top)
    directions = directions + scalp.vectors(0.0, -0.5, -0.15) * (1 - top)
    return directions, (0.10 + 0.30 * scalp.top) * cut.length * (0.75 + 0.4 * scalp.rand())


def _side_parted(scalp: Scalp, cut: Cut) -> Combed:
    side = scalp.side(cut.part)
    directions = 0.35 * scalp.normal + scalp.vectors(0.8 * side, 0.1, 0.25 - 0.35 * scalp.front)
    return directions, (0.22 + 0.48 * scalp.top) * cut.length * (0.8 + 0.3 * scalp.rand())


def _curly(scalp: Scalp, cut: Cut) -> Combed:
    directions = scalp.normal + 0.25 * scalp.vectors(0.0, 0.2, -0.1)
    return directions, (0.30 + 0.25 * scalp.top) * cut.length * (0.75 + 0.4 * scalp.rand())


def _hanging(scalp: Scalp, cut: Cut) -> Combed:
    """Comb hair from the parting to the sides, and behind the ears straight down."""
    sideways = smoothstep(scalp.rest[:, 2], -0.3, 0.6)[:, None]
    to_side = scalp.vectors(0.85 * scalp.side(cut.part), 0.05, 0.10 - 0.45 * scalp.front)
    down = scalp.vectors(0.35 * scalp.rest[:, 0], -0.5, -0.35)
    directions = 0.15 * scalp.normal + torch.lerp(down, to_side, sideways)
    return directions, torch.ones_like(scalp.top)


_COMBS = {"buzz cut": _buzz, "short": _short, "side-parted": _side_parted, "curly": _curly}


def _ends(scalp: Scalp, cut: Cut, face: FaceShape) -> Tensor:
    """Return the height (n,) at which each strand of hanging hair ends."""
    base = {"bob": 0.05, "long": -1.15, "wavy": -0.95}[cut.style]
    level = face.chin_y + base + (1 - cut.length) * (0.5 if cut.style == "bob" else 1.0)
    behind = smoothstep(-scalp.rest[:, 2], -0.4, 0.4)
    return level + (0.05 + 0.05 * behind) * scalp.randn() - 0.1 * behind


def dress_hair(
    cut: Cut,
    roots: Roots,
    positions: Tensor,
    normals: Tensor,
    surface: HeadSurface,
    face: FaceShape,
    generator: torch.Generator,
) -> Strands:
    """Grow a head's hair from roots on its skin."""
    scalp = Scalp(cut, roots, positions, normals, generator)
    growth = GROWTHS[cut.style]
    if cut.style == "tied back":
        return _tie_back(scalp.start, scalp.normal, face, generator, growth)
    directions, lengths = _COMBS.get(cut.style, _hanging)(scalp, cut)
    end = torch.full_like(scalp.top, -1e3)
    if cut.style in _LONG:
        end = _ends(scalp, cut, face)
        lengths = (scalp.start[:, 1] - end + 0.45 + 0.35 * scalp.top).clamp(min=0.15)
    if cut.fringe and cut.style not in ("buzz cut", "curly"):
        falls = (scalp.azimuth.abs() < 0.75) & (scalp.elevation > 0.5) & (scalp.elevation < 1.12)
        falls &= scalp.rest[:, 2] > 0.75
        forward = scalp.vectors(0.25 * torch.tanh(scalp.rest[:, 0] / 0.4), -0.1, 0.9)
        directions = torch.where(falls[:, None], forward + 0.35 * scalp.normal, directions)
        brow = face.brow_y + 0.14 + 0.05 * scalp.randn()
        end = torch.where(falls, brow, end)
        lengths = torch.where(falls, (scalp.start[:, 1] - brow + 0.32).clamp(min=0.1), lengths)
    directions = F.normalize(directions, dim=1)
    strands = grow(scalp.start, directions, lengths, growth, surface, face, generator)
    strands.fraction = torch.minimum(strands.fraction, _fraction_above(strands.nodes, end))
    return strands


def _fraction_above(nodes: Tensor, end: Tensor) -> Tensor:
    """Return the part of each strand before it first falls below the height `end`."""
    above = (nodes[..., 1] >= end[:, None]).cumprod(1).sum(1)
    return (above / nodes.shape[1]).clamp(max=1.0)


def _tie_back(
    start: Tensor, normal: Tensor, face: FaceShape, generator: torch.Generator, growth: Growth
) -> Strands:
    """Lay strands along the skull to a bun, and wind others around the bun."""
    device = start.device
    bun = face.center + torch.tensor([0.0, 0.98, -0.50], device=device)
    offset = start - face.center
    radius = offset.norm(dim=1, keepdim=True)
    a, b = offset / radius, F.normalize(bun - face.center, dim=0).expand_as(offset)
    angle = (a * b).sum(1, keepdim=True).clamp(-0.999, 0.999).acos()
    t = torch.linspace(0, 1, growth.nodes, device=device)[None, :, None]
    noise = 0.05 * torch.randn(len(start), 1, 3, generator=generator, device=device)
    around = (
        ((1 - t) * angle[:, None]).sin() * a[:, None] + (t * angle[:, None]).sin() * b[:, None]
    ) / angle.sin()[:, None]
    layer = torch.rand(len(start), 1, 1, generator=generator, device=device)
    height = radius[:, None] * (1 - t) + t * (bun - face.center).norm() * 0.93
    lift = (0.015 + 0.05 * layer) * (t * 6).clamp(max=1)
    nodes = face.center + around * (height + lift) + noise * t * (1 - t)
    wound = 2500
    axis = F.normalize(torch.randn(wound, 3, generator=generator, device=device), dim=1)
    first = F.normalize(torch.linalg.cross(axis, axis.roll(1, 1) + 0.1), dim=1)
    second = torch.linalg.cross(axis, first)
    turn = t[None, 0] * 2.5 + 6.28 * torch.rand(wound, 1, 1, generator=generator, device=device)
    size = 0.26 * (0.9 + 0.12 * torch.rand(wound, 1, 1, generator=generator, device=device))
    ring = size * (first[:, None] * turn.cos() + second[:, None] * turn.sin())
    nodes = torch.cat([nodes, bun + ring])
    tones = 1 + 0.16 * torch.randn(len(nodes), generator=generator, device=device)
    return Strands(nodes, tones.clamp(0.5, 1.6), torch.ones(len(nodes), device=device))
