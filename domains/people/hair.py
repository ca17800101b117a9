"""Hair, beards, brows and lashes as strands that grow from the skin."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.compilation import compiled_on_gpu
from domains.people.mesh import BODY, HeadMesh
from domains.people.strands import Strands

CENTER = (0.0, 7.4, 0.55)  # of the skull on the base mesh
_HAIRLINE_AZIMUTH = (0.0, 0.45, 0.85, 1.1, 1.35, 1.55, 1.8, 2.2, 3.15)
_HAIRLINE_ELEVATION = (0.66, 0.66, 0.52, 0.25, -0.22, -0.05, -0.35, -0.55, -0.70)


def lookup(x: Tensor, xs: tuple[float, ...], ys: tuple[float, ...]) -> Tensor:
    """Interpolate piecewise linearly, constant outside."""
    result = torch.full_like(x, ys[0])
    for x0, x1, y0, y1 in zip(xs[:-1], xs[1:], ys[:-1], ys[1:], strict=True):
        result += ((x - x0) / (x1 - x0)).clamp(0, 1) * (y1 - y0)
    return result


def smoothstep(x: Tensor, low: float | Tensor, high: float | Tensor) -> Tensor:
    """Rise smoothly from 0 at `low` to 1 at `high`."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def skull_angles(rest: Tensor) -> tuple[Tensor, Tensor]:
    """Return azimuth (0 in front, positive to the left) and elevation around the skull's center."""
    x, y, z = (rest - torch.tensor(CENTER, device=rest.device)).unbind(-1)
    return torch.atan2(x, z), torch.atan2(y, torch.hypot(x, z))


def scalp_field(rest: Tensor, recession: float = 0.0) -> Tensor:
    """Return how far above the hairline points of the skin lie, in radians."""
    azimuth, elevation = skull_angles(rest)
    line = lookup(azimuth.abs(), _HAIRLINE_AZIMUTH, _HAIRLINE_ELEVATION)
    temples = torch.exp(-(((azimuth.abs() - 0.6) / 0.25) ** 2)) * 0.8 + 0.45
    front = smoothstep(-azimuth.abs(), -1.2, -0.7)
    return elevation - line - recession * temples * front


def brow_field(rest: Tensor, thickness: float, height: float) -> Tensor:
    """Return the density of the brows, 0 to 1."""
    x = rest[:, 0].abs()
    middle = lookup(x, (0.1, 0.2, 0.33, 0.45, 0.55), (7.50, 7.52, 7.54, 7.52, 7.46)) + height
    half = lookup(x, (0.08, 0.13, 0.3, 0.45, 0.57), (0.013, 0.030, 0.029, 0.019, 0.007)) * thickness
    inside = (x > 0.085) & (x < 0.57) & (rest[:, 2] > 1.0)
    return (1 - ((rest[:, 1] - middle) / half).abs()).clamp(0, 1) * inside


def beard_field(rest: Tensor, lips: Tensor, style: str) -> Tensor:
    """Return the density of a beard of that style, 0 to 1."""
    x, y, z = rest[:, 0].abs(), rest[:, 1], rest[:, 2]
    cheek = lookup(z, (0.6, 0.8, 1.2, 1.42, 1.6), (7.18, 7.02, 6.74, 6.70, 6.78))
    wave = 0.02 * torch.sin(23 * z) + 0.015 * torch.sin(51 * y + 17 * x)
    line = smoothstep(cheek - y + wave, -0.04, 0.20) ** 1.5
    jaw = (
        line
        * smoothstep(z, 0.6, 0.72)
        * smoothstep(y, 6.0, 6.2)
        * smoothstep(z, 0.72, 0.95).clamp(min=0.6)
    )
    away = 1 - smoothstep(lips, 0.02, 0.15)
    under_lip = 1 - torch.exp(-(((x - 0.12) / 0.06) ** 2) - ((y - 6.45) / 0.05) ** 2)
    side = smoothstep(x, 0.24, 0.33) + smoothstep(-y, -6.52, -6.44)
    jaw = jaw * side.clamp(0, 1) * away * under_lip
    moustache = (
        smoothstep(-x, -0.31, -0.22)
        * smoothstep(y, 6.66 - 0.0, 6.70)
        * smoothstep(-(y + x * 0.32), -6.85, -6.79)
        * smoothstep(z, 1.2, 1.35)
        * away
        * (0.35 + 0.65 * smoothstep(x, 0.0, 0.05))
    )
    if style == "moustache":
        return moustache
    if style == "goatee":
        chin = smoothstep(-x, -0.30, -0.2) * smoothstep(z, 0.95, 1.15)
        beside = torch.exp(-(((x - 0.28) / 0.05) ** 2)) * smoothstep(-y, -6.72, -6.66)
        return torch.maximum(jaw * torch.maximum(chin, beside * 0.9), moustache)
    return torch.maximum(jaw, moustache)


class Roots:
    """Fixed candidates for strands' roots on the skin: they follow every deformation."""

    def __init__(self, mesh: HeadMesh, count: int, region: Tensor) -> None:
        """Sample `count` roots, by area, on the triangles that `region` (t,) selects."""
        body = mesh.parts[BODY]
        corners = body.rest[body.triangles].cpu()
        area = torch.linalg.cross(
            corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
        ).norm(dim=1)
        generator = torch.Generator().manual_seed(1)
        triangle = torch.multinomial(
            area * region.cpu(), count, replacement=True, generator=generator
        )
        uv = torch.rand(count, 2, generator=generator)
        uv = torch.where(uv.sum(1, keepdim=True) > 1, 1 - uv, uv)
        self.corners = body.triangles[triangle.to(mesh.device)]
        self.weights = torch.cat([1 - uv.sum(1, keepdim=True), uv], 1).to(mesh.device)
        self.rest = self.interpolate(body.rest)

    def interpolate(self, values: Tensor) -> Tensor:
        """Interpolate values (v, c) of the body's vertices at the roots: (count, c)."""
        return (values[self.corners] * self.weights[..., None]).sum(1)


class HeadSurface:
    """The distance of a head's surface from its vertical axis, to keep hair outside.

    Above the skull's center distances are from the center, below it from the vertical through it.
    """

    ROWS, COLUMNS = 56, 72
    LOW, HIGH = -2.3, math.pi / 2
    LIMIT = 0.95  # hair that falls farther from the axis rests on nothing

    def __init__(self, positions: Tensor, center: Tensor) -> None:
        self.center = center
        row, column, radius = self._coordinates(positions)
        inside = (row > -0.5) & (row < self.ROWS - 0.5)
        cell = row.round().clamp(0, self.ROWS - 1).long() * self.COLUMNS
        cell = cell + column.round().long() % self.COLUMNS
        table = torch.zeros(self.ROWS * self.COLUMNS, device=positions.device)
        table.scatter_reduce_(0, cell[inside], radius[inside], "amax")
        table = table.view(1, 1, self.ROWS, self.COLUMNS)
        for _ in range(6):  # fill cells without vertices
            padded = F.pad(
                F.pad(table, (1, 1, 0, 0), mode="circular"), (0, 0, 1, 1), mode="replicate"
            )
            table = torch.where(table > 0, table, F.max_pool2d(padded, 3, 1))
        for _ in range(2):
            padded = F.pad(
                F.pad(table, (2, 2, 0, 0), mode="circular"), (0, 0, 2, 2), mode="replicate"
            )
            table = F.avg_pool2d(padded, 5, 1)
        self.table = F.pad(table.clamp(max=self.LIMIT), (1, 1, 0, 0), mode="circular")

    def _axis(self, points: Tensor) -> Tensor:
        axis = self.center.expand_as(points).clone()
        axis[..., 1] = torch.minimum(points[..., 1], self.center[1])
        return axis

    def _coordinates(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        offset = points - self.center
        x, y, z = offset.unbind(-1)
        flat = torch.hypot(x, z)
        height = torch.where(y > 0, torch.atan2(y, flat), y)
        row = (height - self.LOW) / (self.HIGH - self.LOW) * (self.ROWS - 1)
        column = (torch.atan2(x, z) / (2 * math.pi) + 0.5) * self.COLUMNS
        return row, column, torch.where(y > 0, offset.norm(dim=-1), flat)

    def _measure(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the surface's distance in the direction of points (n, 3), and the points'."""
        row, column, radius = self._coordinates(points)
        grid = torch.stack(
            [(column + 1) / (self.COLUMNS + 1) * 2 - 1, row / (self.ROWS - 1) * 2 - 1], -1
        )
        surface = F.grid_sample(
            self.table, grid[None, None], align_corners=True, padding_mode="border"
        )
        return surface.flatten(), radius

    def error_at(self, roots: Tensor) -> Tensor:
        """Return how far points (n, 3) of the skin lie outside this smoothed surface, or 0."""
        surface, radius = self._measure(roots)
        return (radius - surface).clamp(min=0)

    def confine(self, points: Tensor, margin: Tensor, slack: Tensor) -> Tensor:
        """Move points (n, 3) to distances from `margin` (n,) to `slack` more outside the surface.

        Below the skull's center hair may hang farther away.
        """
        surface, radius = self._measure(points)
        axis = self._axis(points)
        least = surface + margin
        hanging = 0.35 * (self.center[1] - points[:, 1]).clamp(min=0)
        target = torch.minimum(torch.maximum(radius, least), least + slack + hanging)
        scale = target / radius.clamp(min=1e-3)
        return axis + (points - axis) * scale[:, None]


@dataclass
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
class FaceShape:
    """Positions on a deformed head that hair and wear are fitted to, in decimeters."""

    eyes: Tensor  # (2, 3): centers of the left and right eyeballs
    eye_radius: float
    brow_y: float
    chin_y: float
    center: Tensor  # (3,): of the skull


def grow(
    roots: Tensor,
    directions: Tensor,
    lengths: Tensor,
    growth: Growth,
    surface: HeadSurface,
    face: FaceShape,
    generator: torch.Generator,
) -> Strands:
    """Grow strands outside `surface` and beside the face's window.

    Args:
        roots: (s, 3); directions: unit (s, 3); lengths: (s,).
    """
    count, device = len(roots), roots.device

    def randn(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device)

    leaders = torch.randperm(count, generator=generator, device=device)[: growth.locks]
    lock = torch.cdist(roots, roots[leaders]).argmin(1)
    lock_noise = randn(len(leaders), 3)
    directions = F.normalize(directions + 0.18 * lock_noise[lock], dim=1)
    layer = torch.rand(count, generator=generator, device=device)
    step = (lengths / (growth.nodes - 1))[:, None]
    side = torch.sign(roots[:, 0] + 0.05 * randn(count))
    nodes = [roots]
    error = surface.error_at(roots)
    position, direction = roots, directions
    half = float(face.eyes[:, 0].abs().mean()) + face.eye_radius * 2.0
    window = torch.tensor([half, face.brow_y, face.chin_y], device=device)
    rates = torch.tensor([growth.gravity, growth.jitter, growth.slack], device=device)
    for k in range(1, growth.nodes):
        bend = randn(len(leaders), 3)[lock] * 0.6 + randn(count, 3)
        margin = error + 0.008 + growth.volume * layer * min(k / 3, 1.0)
        position, direction = _advance(
            position, direction, step, bend, margin, side, rates, window, surface
        )
        nodes.append(position)
    stack = torch.stack(nodes, 1)
    along = torch.linspace(0, 1, growth.nodes, device=device)[None, :, None]
    if growth.clump:
        toward = stack[leaders][lock] - stack
        near = torch.exp(-toward.norm(dim=2, keepdim=True) / 0.25)
        stack = stack + growth.clump * along * near * toward
    if growth.curl:
        stack = _add_curls(stack, growth, lock, len(leaders), generator)
    tones = (1 + 0.14 * randn(len(leaders))[lock] + 0.10 * randn(count)).clamp(0.5, 1.6)
    jumps = torch.diff(stack, dim=1).norm(dim=2) > 0.12 + 3 * step  # across the face: end before
    intact = (~jumps).cumprod(1).sum(1) / growth.nodes
    fraction = torch.where(jumps.any(1), intact, torch.ones_like(intact))
    return Strands(stack, tones, fraction)


@compiled_on_gpu  # some 80 small kernels, which run up to 25 times a head
def _advance(
    position: Tensor,
    direction: Tensor,
    step: Tensor,
    bend: Tensor,
    margin: Tensor,
    side: Tensor,
    rates: Tensor,
    window: Tensor,
    surface: HeadSurface,
) -> tuple[Tensor, Tensor]:
    """Return the next nodes (s, 3) of strands, and the direction (s, 3) toward them.

    Args:
        bend: random (s, 3); margin: least distance (s,) from the surface.
        side: of the face (s,), -1 or 1, for strands in its middle.
        rates: gravity, jitter and slack of the growth.
        window: half the width of the face's window, the heights of the brows and the chin.
    """
    gravity, jitter, slack = rates.unbind()
    pull = _drape(position, window, surface.center)
    direction = F.normalize(direction + gravity * pull + jitter * bend, dim=1)
    moved = surface.confine(position + direction * step, margin, slack)
    moved = _keep_beside_face(moved, window, surface.center, side)
    return moved, F.normalize(moved - position, dim=1)


def _drape(points: Tensor, window: Tensor, center: Tensor) -> Tensor:
    """Return the pull (n, 3) of hair: down, and below the ears behind the shoulders."""
    _, _, chin_y = window.unbind()
    low = smoothstep(-points[:, 1], -(chin_y + 0.7), -(chin_y - 0.1))
    inward = -0.5 * torch.tanh((points[:, 0].abs() - 0.45) * 3) * torch.sign(points[:, 0])
    back = -1.2 * smoothstep(points[:, 2] - center[2], -0.3, 0.3)
    return torch.stack([low * inward, -torch.ones_like(low), low * back], 1)


def _keep_beside_face(points: Tensor, window: Tensor, center: Tensor, side: Tensor) -> Tensor:
    """Push points in front of the face to the side of a window from brow to chin."""
    half, brow_y, chin_y = window.unbind()
    rise = smoothstep(-points[:, 1], -(brow_y + 0.22), -(brow_y + 0.02))
    taper = 1 - 0.25 * smoothstep(-points[:, 1], -brow_y + 0.4, -chin_y)
    front = smoothstep(points[:, 2] - center[2], 0.15, 0.55)
    least = half * rise * taper * front
    side = torch.where(points[:, 0].abs() > 0.03, torch.sign(points[:, 0]), side)
    x = torch.where(points[:, 0].abs() < least, side * least, points[:, 0])
    return torch.stack([x, points[:, 1], points[:, 2]], 1)


def _add_curls(
    nodes: Tensor, growth: Growth, lock: Tensor, locks: int, generator: torch.Generator
) -> Tensor:
    tangent = F.normalize(
        torch.diff(nodes, dim=1, append=2 * nodes[:, -1:] - nodes[:, -2:-1]), dim=2
    )
    up = torch.tensor([0.31, 0.2, 0.93], device=nodes.device).expand_as(tangent)
    across = F.normalize(torch.linalg.cross(tangent, up), dim=2)
    other = torch.linalg.cross(tangent, across)
    phase = torch.rand(locks, generator=generator, device=nodes.device)[lock] * 2 * math.pi
    phase = phase + 0.35 * torch.randn(len(nodes), generator=generator, device=nodes.device)
    turns = growth.turns * (1 + 0.15 * torch.randn(locks, generator=generator, device=nodes.device))
    along = torch.linspace(0, 1, nodes.shape[1], device=nodes.device)
    angle = phase[:, None] + 2 * math.pi * turns[lock][:, None] * along
    radius = growth.curl * (along * 4).clamp(max=1.0)[None, :, None]
    return nodes + radius * (across * angle.cos()[..., None] + other * angle.sin()[..., None])
