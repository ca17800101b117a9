"""The hair styles: where strands grow, in which direction, and where they end."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.hair import (
    Face,
    Growth,
    HeadSurface,
    Roots,
    Strands,
    grow,
    scalp_field,
    skull_angles,
    smoothstep,
)

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


def dress_hair(
    style: str,
    length: float,
    part: float,
    fringe: bool,
    recession: float,
    cover: Tensor | None,
    roots: Roots,
    positions: Tensor,
    normals: Tensor,
    surface: HeadSurface,
    face: Face,
    generator: torch.Generator,
) -> Strands:
    """Grow a head's hair.

    Args:
        style: a key of GROWTHS.
        length: scale of the style's length, about 1.
        part: where the parting lies, in decimeters to the left of the middle.
        fringe: whether hair falls on the forehead.
        recession: how far the hairline recedes, in radians.
        cover: (r,) for each root how deep it lies under a hat, in decimeters.
        roots, positions, normals, surface, face: the scalp.
    """
    rest = roots.rest
    field = scalp_field(rest, recession)
    noise = torch.randn(len(rest), generator=generator, device=rest.device)
    chosen = field + 0.03 * noise > 0.0
    if cover is not None:
        chosen &= cover < 0.16
    start = roots.interpolate(positions)[chosen]
    normal = F.normalize(roots.interpolate(normals)[chosen], dim=1)
    rest = rest[chosen]
    azimuth, elevation = skull_angles(rest)
    growth = GROWTHS[style]
    count = len(start)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator, device=rest.device)

    def vectors(x: Tensor | float, y: Tensor | float, z: Tensor | float) -> Tensor:
        as_tensor = [torch.as_tensor(v, device=rest.device).expand(count) for v in (x, y, z)]
        return torch.stack(as_tensor, 1)

    if style == "tied back":
        strands = _tie_back(start, normal, face, generator, growth)
        return strands
    side = torch.tanh((rest[:, 0] - part + 0.01 * noise[chosen]) / 0.008)
    top = smoothstep(elevation, 0.35, 1.0)
    front = smoothstep(rest[:, 2], 0.5, 1.2)
    if style == "buzz cut":
        directions = normal + 0.3 * vectors(0.0, 0.0, 1.0)
        lengths = 0.035 * length * (0.7 + 0.5 * rand(count))
    elif style == "short":
        sweep = vectors(0.35 * torch.sign(torch.as_tensor(part + 1e-6)), 0.25, 0.5 - 1.0 * front)
        directions = normal * (0.5 + 0.35 * top[:, None]) + sweep * (0.4 + 0.6 * top[:, None])
        directions = directions + vectors(0.0, -0.5, -0.15) * (1 - top[:, None])
        lengths = (0.10 + 0.34 * top) * length * (0.75 + 0.4 * rand(count))
    elif style == "side-parted":
        directions = 0.25 * normal + vectors(0.9 * side, 0.1, 0.30 - 0.5 * front)
        lengths = (0.22 + 0.48 * top) * length * (0.8 + 0.3 * rand(count))
    elif style == "curly":
        directions = normal + 0.25 * vectors(0.0, 0.2, -0.1)
        lengths = (0.30 + 0.25 * top) * length * (0.75 + 0.4 * rand(count))
    else:
        directions = 0.12 * normal + vectors(0.85 * side, 0.0, 0.10 - 0.5 * front)
        lengths = torch.full((count,), 1.0, device=rest.device)
    end = torch.full((count,), -1e3, device=rest.device)
    long = style in ("bob", "long", "wavy")
    if long:
        base = {"bob": face.chin_y + 0.05, "long": face.chin_y - 1.15, "wavy": face.chin_y - 0.95}
        level = base[style] + (1 - length) * (0.5 if style == "bob" else 1.0)
        end = level + 0.07 * torch.randn(count, generator=generator, device=rest.device)
        lengths = (start[:, 1] - end + 0.45 + 0.35 * top).clamp(min=0.15)
    window: Face | None = face
    if fringe and style not in ("buzz cut", "curly"):
        falls = (azimuth.abs() < 0.75) & (elevation > 0.5) & (elevation < 1.12)
        falls &= rest[:, 2] > 0.75
        forward = 0.35 * normal + vectors(0.25 * torch.tanh(rest[:, 0] / 0.4), -0.1, 0.9)
        directions = torch.where(falls[:, None], forward, directions)
        brow = (
            face.brow_y + 0.14 + 0.05 * torch.randn(count, generator=generator, device=rest.device)
        )
        end = torch.where(falls, brow, end)
        lengths = torch.where(falls, (start[:, 1] - brow + 0.32).clamp(min=0.1), lengths)
    directions = F.normalize(directions, dim=1)
    strands = grow(start, directions, lengths, growth, surface, window, generator)
    if fringe or long:
        strands.fraction = torch.minimum(strands.fraction, _fraction_above(strands.nodes, end))
    return strands


def _fraction_above(nodes: Tensor, end: Tensor) -> Tensor:
    """Return the part of each strand before it first falls below the height `end`."""
    above = (nodes[..., 1] >= end[:, None]).cumprod(1).sum(1)
    return (above / nodes.shape[1]).clamp(max=1.0)


def _tie_back(
    start: Tensor, normal: Tensor, face: Face, generator: torch.Generator, growth: Growth
) -> Strands:
    """Lay strands along the skull to a bun, and wind others around the bun."""
    device = start.device
    bun = face.center + torch.tensor([0.0, 0.80, -0.72], device=device)
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
