"""The growth of hair: node by node, the strands of all heads together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.draws import Draws, rand_each, randn_each
from domains.people.hair import HeadSurfaces, smoothstep


@dataclass(frozen=True)
class Growth:
    """How strands grow: lengths in decimeters, the rest as rates for each node.

    Attributes:
        gravity: pull down; jitter: random change of direction.
        volume: height of the uppermost layer over the skin; slack: how far it may stand off above.
        curl: radius of curls; turns: curls over the length.
        clump: how much strands of a lock converge toward their tips; locks: number of locks.
    """

    nodes: int = 12
    gravity: float = 0.2
    jitter: float = 0.05
    volume: float = 0.05
    slack: float = 0.05
    curl: float = 0.0
    turns: float = 3.0
    clump: float = 0.5
    locks: int = 350


@dataclass
class Sprouts:
    """The beginnings of the strands of several heads, one head after the other.

    Attributes:
        growths, draws, counts: of each head, and how many strands it has; heads whose strands have
            more nodes come first.
        head: int64 (s,), the head of each strand.
        roots, directions: (s, 3), the latter of unit length; lengths: (s,), decimeters.
        windows: (h, 3), half the width of each face's window, the heights of the brows and the
            chin; centers: (h, 3), of the skulls.
    """

    growths: Sequence[Growth]
    draws: Sequence[Draws]
    counts: Sequence[int]
    head: Tensor
    roots: Tensor
    directions: Tensor
    lengths: Tensor
    windows: Tensor
    centers: Tensor

    @property
    def starts(self) -> list[int]:
        """The first strand of each head, and in the end the number of strands."""
        starts = [0]
        for count in self.counts:
            starts.append(starts[-1] + count)
        return starts

    def each(self, name: str) -> Tensor:
        """Return a number of each strand's growth, (s,)."""
        values = [float(getattr(growth, name)) for growth in self.growths]
        return torch.tensor(values, device=self.roots.device)[self.head]


class Locks:
    """Locks of hair: each strand follows the leader that is nearest to its root."""

    def __init__(self, sprouts: Sprouts) -> None:
        self.counts = [growth.locks for growth in sprouts.growths]
        device = sprouts.roots.device
        info = torch.tensor([sprouts.counts, sprouts.starts[:-1]], device=device)
        repeats = torch.tensor(self.counts, device=device)
        info = info.repeat_interleave(repeats, 1, output_size=sum(self.counts))
        chosen = (rand_each(sprouts.draws, self.counts) * info[0]).long() + info[1]
        self.leaders = chosen.clamp(max=len(sprouts.roots) - 1)
        self._starts = [sum(self.counts[:k]) for k in range(len(self.counts) + 1)]
        leading, lock = sprouts.roots[self.leaders], []
        for k, (first, end) in enumerate(zip(sprouts.starts[:-1], sprouts.starts[1:], strict=True)):
            near = leading[self._starts[k] : self._starts[k + 1]]
            distance = torch.cdist(sprouts.roots[first:end], near)
            lock.append(distance.argmin(1) + self._starts[k])
        self.of = torch.cat(lock)

    def randn(self, draws: Sequence[Draws], *shape: int) -> Tensor:
        """Draw normal numbers of the locks of the first heads."""
        return randn_each(draws, self.counts[: len(draws)], *shape)


def grow(sprouts: Sprouts, surfaces: HeadSurfaces) -> tuple[Tensor, Tensor, Tensor]:
    """Grow strands outside `surfaces` and beside the faces' windows.

    Returns:
        Nodes (s, k, 3), those beyond a strand's number repeat its last; tones (s,); and the part
        (s,) of each strand before it would jump across the face.
    """
    draws, counts, device = sprouts.draws, sprouts.counts, sprouts.roots.device
    locks = Locks(sprouts)
    directions = sprouts.directions + 0.18 * locks.randn(draws, 3)[locks.of]
    directions = F.normalize(directions, dim=1)
    num_nodes = sprouts.each("nodes")
    step = (sprouts.lengths / (num_nodes - 1))[:, None]
    x = sprouts.roots[:, 0]
    state = _State(
        head=sprouts.head,
        step=step,
        layer=sprouts.each("volume") * rand_each(draws, counts),
        error=surfaces.error_at(sprouts.roots, sprouts.head) + 0.018,
        side=torch.sign(x + 0.05 * randn_each(draws, counts)),
        rise=4.5 / num_nodes,
        gravity=sprouts.each("gravity")[:, None],
        jitter=sprouts.each("jitter")[:, None],
        slack=sprouts.each("slack"),
        window=sprouts.windows[sprouts.head],
        center=sprouts.centers[sprouts.head],
    )
    total = max(growth.nodes for growth in sprouts.growths)
    stack = sprouts.roots[:, None].repeat(1, total, 1)
    position, direction = sprouts.roots, directions
    for k in range(1, total):
        growing = sum(growth.nodes > k for growth in sprouts.growths)
        n = sprouts.starts[growing]
        some = draws[:growing]
        bend = locks.randn(some, 3)[locks.of[:n]] * 0.6 + randn_each(some, counts[:growing], 3)
        position, direction = _advance(
            position[:n], direction[:n], bend, k, state.first(n), surfaces
        )
        stack[:n, k] = position
        stack[n:, k] = stack[n:, k - 1]
    column = torch.arange(total, device=device)
    along = (column / (num_nodes[:, None] - 1)).clamp(max=1.0)[..., None]
    toward = stack[locks.leaders[locks.of]] - stack
    near = torch.exp(-toward.norm(dim=2, keepdim=True) / 0.25)
    stack = stack + sprouts.each("clump")[:, None, None] * along * near * toward
    _curl(stack, sprouts, locks)
    tones = 1 + 0.14 * locks.randn(draws)[locks.of] + 0.10 * randn_each(draws, counts)
    jumps = torch.diff(stack, dim=1).norm(dim=2) > 0.12 + 3 * step
    within = column[:-1] < num_nodes[:, None] - 1
    intact = (within & ~jumps).cumprod(1).sum(1) / num_nodes
    fraction = torch.where((jumps & within).any(1), intact, torch.ones_like(intact))
    return stack, tones.clamp(0.5, 1.6), fraction


@dataclass
class _State:
    """What stays the same while strands grow, of each strand.

    `rise` is the part of its layer's height that a strand gains with each node.
    """

    head: Tensor
    step: Tensor
    layer: Tensor
    error: Tensor
    side: Tensor
    rise: Tensor
    gravity: Tensor
    jitter: Tensor
    slack: Tensor
    window: Tensor
    center: Tensor

    def first(self, n: int) -> _State:
        return _State(**{name: value[:n] for name, value in vars(self).items()})


def _advance(
    position: Tensor,
    direction: Tensor,
    bend: Tensor,
    k: int,
    state: _State,
    surfaces: HeadSurfaces,
) -> tuple[Tensor, Tensor]:
    """Return the next nodes (s, 3) of strands, and the direction (s, 3) toward them.

    Args:
        bend: random (s, 3); k: number of the next nodes.
    """
    pull = _drape(position, state.window, state.center)
    direction = F.normalize(direction + state.gravity * pull + state.jitter * bend, dim=1)
    moved = position + direction * state.step
    margin = state.error + state.layer * (k * state.rise).clamp(max=1)
    moved = surfaces.confine(moved, state.head, margin, state.slack)
    moved = _keep_beside_face(moved, state.window, state.center, state.side)
    return moved, F.normalize(moved - position, dim=1)


def _drape(points: Tensor, window: Tensor, center: Tensor) -> Tensor:
    """Return the pull (n, 3) of hair: down, and below the ears behind the shoulders."""
    chin_y = window[:, 2]
    low = smoothstep(-points[:, 1], -(chin_y + 0.7), -(chin_y - 0.1))
    inward = -0.5 * torch.tanh((points[:, 0].abs() - 0.45) * 3) * torch.sign(points[:, 0])
    back = -1.2 * smoothstep(points[:, 2] - center[:, 2], -0.3, 0.3)
    return torch.stack([low * inward, -torch.ones_like(low), low * back], 1)


def _keep_beside_face(points: Tensor, window: Tensor, center: Tensor, side: Tensor) -> Tensor:
    """Push points in front of the face to the side of a window from brow to chin."""
    half, brow_y, chin_y = window.unbind(1)
    rise = smoothstep(-points[:, 1], -(brow_y + 0.22), -(brow_y + 0.02))
    taper = 1 - 0.25 * smoothstep(-points[:, 1], -brow_y + 0.4, -chin_y)
    front = smoothstep(points[:, 2] - center[:, 2], 0.15, 0.55)
    least = half * rise * taper * front
    side = torch.where(points[:, 0].abs() > 0.03, torch.sign(points[:, 0]), side)
    x = torch.where(points[:, 0].abs() < least, side * least, points[:, 0])
    return torch.stack([x, points[:, 1], points[:, 2]], 1)


def _curl(stack: Tensor, sprouts: Sprouts, locks: Locks) -> None:
    """Wind the strands of the heads with curls around their paths, in place."""
    device = stack.device
    for k, growth in enumerate(sprouts.growths):
        if not growth.curl:
            continue
        draws, rows = sprouts.draws[k], slice(sprouts.starts[k], sprouts.starts[k + 1])
        nodes = stack[rows, : growth.nodes]
        lock = locks.of[rows] - sum(locks.counts[:k])
        tangent = F.normalize(
            torch.diff(nodes, dim=1, append=2 * nodes[:, -1:] - nodes[:, -2:-1]), dim=2
        )
        up = torch.tensor([0.31, 0.2, 0.93], device=device).expand_as(tangent)
        across = F.normalize(torch.linalg.cross(tangent, up), dim=2)
        other = torch.linalg.cross(tangent, across)
        phase = draws.rand(growth.locks)[lock] * 2 * math.pi + 0.35 * draws.randn(len(nodes))
        turns = growth.turns * (1 + 0.15 * draws.randn(growth.locks))[lock]
        along = torch.linspace(0, 1, growth.nodes, device=device)
        angle = phase[:, None] + 2 * math.pi * turns[:, None] * along
        radius = growth.curl * (along * 4).clamp(max=1.0)[None, :, None]
        stack[rows, : growth.nodes] = nodes + radius * (
            across * angle.cos()[..., None] + other * angle.sin()[..., None]
        )
