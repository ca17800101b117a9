"""The hair styles: where strands grow, in which direction, and where they end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.draws import Draws, rand_each, randn_each
from domains.people.face_shape import FaceShapes
from domains.people.growth import Growth, Sprouts, grow
from domains.people.hair import HeadSurfaces, Roots, hairline, skull_angles, smoothstep
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
        headwear: what covers the hair, "" for nothing.
    """

    style: str
    length: float
    part: float
    fringe: bool
    recession: float
    headwear: str

    @property
    def growth(self) -> Growth:
        return GROWTHS[self.style]


class ScalpRoots:
    """The fixed candidates for roots on the scalp.

    Args:
        covers: (r,) by headwear, how deep each root lies under it, in decimeters.
    """

    def __init__(self, roots: Roots, covers: Mapping[str, Tensor]) -> None:
        self.roots = roots
        self.height, self.receding = hairline(roots.rest)
        self._covers = {name: depth < 0.16 for name, depth in covers.items()}
        self._covers[""] = torch.ones_like(self.height, dtype=torch.bool)

    def choose(self, cuts: Sequence[Cut], draws: Sequence[Draws]) -> tuple[Tensor, Tensor]:
        """Return which roots grow hair, bool (h, r), and each root's noise."""
        count, device = len(self.height), self.height.device
        noise = randn_each(draws, [1] * len(cuts), count)
        recession = torch.tensor([[cut.recession] for cut in cuts], device=device)
        chosen = self.height - recession * self.receding + 0.045 * noise > 0.0
        used = [[int(DENSITIES.get(cut.style, 1.0) * count)] for cut in cuts]
        chosen &= torch.arange(count, device=device) < torch.tensor(used, device=device)
        return chosen & torch.stack([self._covers[cut.headwear] for cut in cuts]), noise


class Scalp:
    """The roots of several heads' hair, one head after the other.

    Attributes:
        cuts, draws, counts: of each head, and how many roots it has.
        head: int64 (n,), the head of each root; start, normal, rest: (n, 3).
    """

    def __init__(
        self,
        cuts: Sequence[Cut],
        candidates: ScalpRoots,
        positions: Tensor,
        normals: Tensor,
        draws: Sequence[Draws],
    ) -> None:
        self.cuts, self.draws = cuts, draws
        chosen, noise = candidates.choose(cuts, draws)
        self.counts = [int(n) for n in chosen.sum(1).tolist()]
        self.head, root = torch.nonzero(chosen).unbind(1)
        roots = candidates.roots
        self.start = roots.interpolate(positions, self.head, root)
        self.normal = F.normalize(roots.interpolate(normals, self.head, root), dim=1)
        self.rest, self.noise = roots.rest[root], noise[self.head, root]
        self.azimuth, self.elevation = skull_angles(self.rest)
        self.top = smoothstep(self.elevation, 0.35, 1.0)
        self.front = smoothstep(self.rest[:, 2], 0.5, 1.2)
        self.length = self.each([cut.length for cut in cuts])
        self.part = self.each([cut.part for cut in cuts])
        self.spread = rand_each(draws, self.counts)
        self.level = randn_each(draws, self.counts)

    def each(self, values: Sequence[float]) -> Tensor:
        """Return each root's value (n,) of the heads' values."""
        return torch.tensor(values, device=self.rest.device)[self.head]

    def vectors(self, x: Tensor | float, y: Tensor | float, z: Tensor | float) -> Tensor:
        """Return vectors (n, 3) of components that are numbers or (n,)."""
        like = self.top
        return torch.stack([v if isinstance(v, Tensor) else like.new_full((), v).expand_as(like)
                            for v in (x, y, z)], 1)  # fmt: skip

    def side(self) -> Tensor:
        """Return on which side of the parting roots lie, -1 to 1."""
        x, z = self.rest[:, 0], self.rest[:, 2]
        line = self.part + 0.025 * torch.sin(7 * z)
        return torch.tanh((x - line + 0.012 * self.noise) / 0.02)


Combed = tuple[Tensor, Tensor]  # directions (n, 3), not unit, and lengths (n,)


def _buzz(scalp: Scalp) -> Combed:
    directions = scalp.normal + 0.3 * scalp.vectors(0.0, 0.0, 1.0)
    return directions, 0.035 * scalp.length * (0.7 + 0.5 * scalp.spread)


def _short(scalp: Scalp) -> Combed:
    top = scalp.top[:, None]
    aside = torch.copysign(torch.full_like(scalp.part, 0.4), scalp.part)
    sweep = scalp.vectors(aside, 0.4, 0.4 - 0.6 * scalp.front)
    directions = scalp.normal * (0.45 + 0.3 * top) + sweep * (0.4 + 0.6 * top)
    directions = directions + scalp.vectors(0.0, -0.5, -0.15) * (1 - top)
    return directions, (0.10 + 0.30 * scalp.top) * scalp.length * (0.75 + 0.4 * scalp.spread)


def _side_parted(scalp: Scalp) -> Combed:
    combed = scalp.vectors(0.8 * scalp.side(), 0.1, 0.25 - 0.35 * scalp.front)
    lengths = (0.22 + 0.48 * scalp.top) * scalp.length * (0.8 + 0.3 * scalp.spread)
    return 0.35 * scalp.normal + combed, lengths


def _curly(scalp: Scalp) -> Combed:
    directions = scalp.normal + 0.25 * scalp.vectors(0.0, 0.2, -0.1)
    shorter = 1 - 0.5 * scalp.front * (1 - scalp.top)  # curls do not hang over the brows
    lengths = (0.30 + 0.25 * scalp.top) * shorter * scalp.length
    return directions, lengths * (0.75 + 0.4 * scalp.spread)


def _hanging(scalp: Scalp) -> Combed:
    """Comb hair from the parting to the sides, and behind the ears straight down."""
    sideways = smoothstep(scalp.rest[:, 2], -0.3, 0.6)[:, None]
    to_side = scalp.vectors(0.85 * scalp.side(), 0.05, 0.10 - 0.45 * scalp.front)
    down = scalp.vectors(0.35 * scalp.rest[:, 0], -0.5, -0.35)
    directions = 0.15 * scalp.normal + torch.lerp(down, to_side, sideways)
    return directions, torch.ones_like(scalp.top)


_COMBS = {"buzz cut": _buzz, "short": _short, "side-parted": _side_parted, "curly": _curly}


def _comb(scalp: Scalp) -> Combed:
    """Comb each head's hair as its style is combed."""
    combs = [_COMBS.get(cut.style, _hanging) for cut in scalp.cuts]
    used = list(dict.fromkeys(combs))
    number = scalp.each([used.index(comb) for comb in combs])
    directions, lengths = used[0](scalp)
    for k, comb in enumerate(used[1:], 1):
        others = comb(scalp)
        directions = torch.where((number == k)[:, None], others[0], directions)
        lengths = torch.where(number == k, others[1], lengths)
    return directions, lengths


def _ends(scalp: Scalp, chin_y: Tensor) -> Tensor:
    """Return the height (n,) at which each strand of hanging hair ends; far below for others."""
    base = scalp.each([{"bob": 0.05, "long": -1.15, "wavy": -0.95}.get(cut.style, -1e3)
                       for cut in scalp.cuts])  # fmt: skip
    shorter = scalp.each([0.5 if cut.style == "bob" else 1.0 for cut in scalp.cuts])
    level = chin_y + base + (1 - scalp.length) * shorter
    behind = smoothstep(-scalp.rest[:, 2], -0.4, 0.4)
    return level + (0.08 + 0.04 * behind) * scalp.level - 0.1 * behind


def dress_hair(
    cuts: Sequence[Cut],
    candidates: ScalpRoots,
    positions: Tensor,
    normals: Tensor,
    faces: FaceShapes,
    on_skull: Tensor,
    draws: Sequence[Draws],
) -> list[Strands]:
    """Grow the hair of heads from roots on their skin: strands of each head.

    Args:
        positions, normals: (h, v, 3), of the bodies; faces: of the same heads.
        on_skull: indices of the vertices that hair stays outside of.
    """
    order = sorted(
        range(len(cuts)), key=lambda k: (cuts[k].style == "tied back", -cuts[k].growth.nodes)
    )
    index = torch.tensor(order, device=positions.device)
    faces = faces.select(index)
    scalp = Scalp(
        [cuts[k] for k in order],
        candidates,
        positions[index],
        normals[index],
        [draws[k] for k in order],
    )
    free = sum(cut.style != "tied back" for cut in cuts)
    results = _grow_free(scalp, free, positions[index[:free]], faces, on_skull) if free else []
    first = sum(scalp.counts[:free])
    for k in range(free, len(cuts)):
        start = scalp.start[first : first + scalp.counts[k]]
        first += scalp.counts[k]
        results.append(_tie_back(start, faces.center[k], scalp.draws[k], scalp.cuts[k].growth))
    by_head = dict(zip(order, results, strict=True))
    return [by_head[k] for k in range(len(cuts))]


def _grow_free(
    scalp: Scalp, count: int, positions: Tensor, faces: FaceShapes, on_skull: Tensor
) -> list[Strands]:
    """Grow the hair of the first `count` heads, which is not tied."""
    directions, lengths = _comb(scalp)
    brow_y, chin_y = faces.window[scalp.head, 1], faces.window[scalp.head, 2]
    end = _ends(scalp, chin_y)
    hanging = scalp.each([cut.style in _LONG for cut in scalp.cuts]).bool()
    reach = (scalp.start[:, 1] - end + 0.45 + 0.35 * scalp.top).clamp(min=0.15)
    lengths = torch.where(hanging, reach, lengths)
    falls = scalp.each([cut.fringe and cut.style not in ("buzz cut", "curly")
                        for cut in scalp.cuts]).bool()  # fmt: skip
    falls &= (scalp.azimuth.abs() < 0.75) & (scalp.elevation > 0.5) & (scalp.elevation < 1.12)
    falls &= scalp.rest[:, 2] > 0.75
    forward = scalp.vectors(0.25 * torch.tanh(scalp.rest[:, 0] / 0.4), -0.1, 0.9)
    directions = torch.where(falls[:, None], forward + 0.35 * scalp.normal, directions)
    brow = brow_y + 0.16 + 0.06 * scalp.level
    end = torch.where(falls, brow, end)
    lengths = torch.where(falls, (scalp.start[:, 1] - brow + 0.32).clamp(min=0.1), lengths)
    total = sum(scalp.counts[:count])
    sprouts = Sprouts(
        [cut.growth for cut in scalp.cuts[:count]],
        scalp.draws[:count],
        scalp.counts[:count],
        scalp.head[:total],
        scalp.start[:total],
        F.normalize(directions[:total], dim=1),
        lengths[:total],
        faces.window[:count],
        faces.center[:count],
    )
    surfaces = HeadSurfaces(positions[:, on_skull], faces.center[:count])
    nodes, tones, fraction = grow(sprouts, surfaces)
    fraction = torch.minimum(fraction, _fraction_above(nodes, end[:total], sprouts.each("nodes")))
    return [
        Strands(nodes[a:b, : growth.nodes], tones[a:b], fraction[a:b])
        for growth, a, b in zip(
            sprouts.growths, sprouts.starts[:-1], sprouts.starts[1:], strict=True
        )
    ]


def _fraction_above(nodes: Tensor, end: Tensor, count: Tensor) -> Tensor:
    """Return the part of each strand before it first falls below the height `end`.

    Args:
        nodes: (s, k, 3); count: (s,), how many nodes a strand has.
    """
    within = torch.arange(nodes.shape[1], device=nodes.device) < count[:, None]
    above = ((nodes[..., 1] >= end[:, None]) & within).cumprod(1).sum(1)
    return (above / count).clamp(max=1.0)


def _tie_back(start: Tensor, center: Tensor, draws: Draws, growth: Growth) -> Strands:
    """Lay strands along the skull to a bun, and wind others around the bun."""
    device = start.device
    bun = center + torch.tensor([0.0, 0.98, -0.50], device=device)
    offset = start - center
    radius = offset.norm(dim=1, keepdim=True)
    a, b = offset / radius, F.normalize(bun - center, dim=0).expand_as(offset)
    angle = (a * b).sum(1, keepdim=True).clamp(-0.999, 0.999).acos()
    t = torch.linspace(0, 1, growth.nodes, device=device)[None, :, None]
    noise = 0.05 * draws.randn(len(start), 1, 3)
    around = (
        ((1 - t) * angle[:, None]).sin() * a[:, None] + (t * angle[:, None]).sin() * b[:, None]
    ) / angle.sin()[:, None]
    layer = draws.rand(len(start), 1, 1)
    height = radius[:, None] * (1 - t) + t * (bun - center).norm() * 0.93
    lift = (0.015 + 0.05 * layer) * (t * 6).clamp(max=1)
    nodes = center + around * (height + lift) + noise * t * (1 - t)
    wound = 2500
    axis = F.normalize(draws.randn(wound, 3), dim=1)
    first = F.normalize(torch.linalg.cross(axis, axis.roll(1, 1) + 0.1), dim=1)
    second = torch.linalg.cross(axis, first)
    turn = t[None, 0] * 2.5 + 6.28 * draws.rand(wound, 1, 1)
    size = 0.26 * (0.9 + 0.12 * draws.rand(wound, 1, 1))
    ring = size * (first[:, None] * turn.cos() + second[:, None] * turn.sin())
    nodes = torch.cat([nodes, bun + ring])
    tones = 1 + 0.16 * draws.randn(len(nodes))
    return Strands(nodes, tones.clamp(0.5, 1.6), torch.ones(len(nodes), device=device))
