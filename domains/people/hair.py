"""Hair, beards, brows and lashes as strands that grow from the skin."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.mesh import BODY, HeadMesh

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


def hairline(rest: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far above the hairline points of the skin lie, and by how much it can recede."""
    azimuth, elevation = skull_angles(rest)
    line = lookup(azimuth.abs(), _HAIRLINE_AZIMUTH, _HAIRLINE_ELEVATION)
    temples = torch.exp(-(((azimuth.abs() - 0.6) / 0.25) ** 2)) * 0.8 + 0.45
    return elevation - line, temples * smoothstep(-azimuth.abs(), -1.2, -0.7)


def scalp_field(rest: Tensor, recession: float | Tensor = 0.0) -> Tensor:
    """Return how far above the hairline points of the skin lie, in radians."""
    height, receding = hairline(rest)
    return height - recession * receding


def brow_field(rest: Tensor, thickness: float | Tensor, height: float | Tensor) -> Tensor:
    """Return the density of the brows, 0 to 1."""
    x = rest[:, 0].abs()
    middle = lookup(x, (0.1, 0.2, 0.33, 0.45, 0.55), (7.50, 7.52, 7.54, 7.52, 7.46)) + height
    half = lookup(x, (0.08, 0.13, 0.3, 0.45, 0.57), (0.013, 0.030, 0.029, 0.019, 0.007)) * thickness
    inside = smoothstep(x, 0.08, 0.17) * (1 - smoothstep(x, 0.36, 0.58)) * (rest[:, 2] > 1.0)
    return smoothstep(1 - ((rest[:, 1] - middle) / half).abs(), 0.0, 0.9) * inside


def beard_style(style: str) -> int:
    """Return which of the `beard_fields` a beard of that style has."""
    return {"moustache": 0, "goatee": 1}.get(style, 2)


def beard_fields(rest: Tensor, lips: Tensor) -> Tensor:
    """Return the densities (3, n), 0 to 1, of a moustache, a goatee, and the other beards."""
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
    chin = smoothstep(-x, -0.30, -0.2) * smoothstep(z, 0.95, 1.15)
    beside = torch.exp(-(((x - 0.28) / 0.05) ** 2)) * smoothstep(-y, -6.72, -6.66)
    goatee = torch.maximum(jaw * torch.maximum(chin, beside * 0.9), moustache)
    return torch.stack([moustache, goatee, torch.maximum(jaw, moustache)])


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
        rest = body.rest[self.corners]
        self.rest = (rest * self.weights[..., None]).sum(1)

    def interpolate(self, values: Tensor, head: Tensor, root: Tensor) -> Tensor:
        """Interpolate values (B, v, c) of bodies' vertices at roots (n,) of heads (n,): (n, c)."""
        return (values[head[:, None], self.corners[root]] * self.weights[root, :, None]).sum(1)


class HeadSurfaces:
    """The distance of heads' surfaces from their vertical axes, to keep hair outside.

    Above the skull's center distances are from the center, below it from the vertical through it.
    """

    ROWS, COLUMNS = 56, 72
    LOW, HIGH = -2.3, math.pi / 2
    LIMIT = 0.95  # hair that falls farther from the axis rests on nothing

    def __init__(self, positions: Tensor, centers: Tensor) -> None:
        """Measure surfaces through points (h, n, 3) around centers (h, 3)."""
        count, size = len(positions), self.ROWS * self.COLUMNS
        row, column, radius = self._coordinates(positions, centers[:, None])
        inside = (row > -0.5) & (row < self.ROWS - 0.5)
        cell = row.round().clamp(0, self.ROWS - 1).long() * self.COLUMNS
        cell = cell + column.round().long() % self.COLUMNS
        table = torch.zeros(count, size, device=positions.device)
        table.scatter_reduce_(1, cell, torch.where(inside, radius, 0.0), "amax")
        table = table.view(count, 1, self.ROWS, self.COLUMNS)
        for _ in range(6):  # fill cells without vertices
            table = torch.where(table > 0, table, F.max_pool2d(self._pad(table, 1), 3, 1))
        for _ in range(2):
            table = F.avg_pool2d(self._pad(table, 2), 5, 1)
        table = F.pad(table.clamp(max=self.LIMIT), (1, 1, 0, 0), mode="circular")
        self._table = table.view(1, 1, count * self.ROWS, -1)  # one head above the other
        self._centers = centers

    @staticmethod
    def _pad(table: Tensor, n: int) -> Tensor:
        around = F.pad(table, (n, n, 0, 0), mode="circular")
        return F.pad(around, (0, 0, n, n), mode="replicate")

    def _axis(self, points: Tensor, center: Tensor) -> Tensor:
        y = torch.minimum(points[:, 1], center[:, 1])
        return torch.stack([center[:, 0], y, center[:, 2]], 1)

    def _coordinates(self, points: Tensor, center: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        offset = points - center
        x, y, z = offset.unbind(-1)
        flat = torch.hypot(x, z)
        height = torch.where(y > 0, torch.atan2(y, flat), y)
        row = (height - self.LOW) / (self.HIGH - self.LOW) * (self.ROWS - 1)
        column = (torch.atan2(x, z) / (2 * math.pi) + 0.5) * self.COLUMNS
        return row, column, torch.where(y > 0, offset.norm(dim=-1), flat)

    def _measure(self, points: Tensor, head: Tensor) -> tuple[Tensor, Tensor]:
        """Return the surface's distance in the direction of points (n, 3), and the points'."""
        row, column, radius = self._coordinates(points, self._centers[head])
        row = row.clamp(0, self.ROWS - 1) + head * self.ROWS
        x = (column + 1) / (self.COLUMNS + 1) * 2 - 1
        y = row / (self._table.shape[2] - 1) * 2 - 1
        surface = F.grid_sample(
            self._table, torch.stack([x, y], -1)[None, None], align_corners=True,
            padding_mode="border",
        )  # fmt: skip
        return surface.flatten(), radius

    def error_at(self, roots: Tensor, head: Tensor) -> Tensor:
        """Return how far points (n, 3) of the skin lie outside this smoothed surface, or 0."""
        surface, radius = self._measure(roots, head)
        return (radius - surface).clamp(min=0)

    def confine(self, points: Tensor, head: Tensor, margin: Tensor, slack: Tensor) -> Tensor:
        """Move points (n, 3) to distances from `margin` (n,) to `slack` (n,) more outside.

        Below the skull's center hair may hang farther away.
        """
        surface, radius = self._measure(points, head)
        center = self._centers[head]
        axis = self._axis(points, center)
        least = surface + margin
        hanging = 0.35 * (center[:, 1] - points[:, 1]).clamp(min=0)
        target = torch.minimum(torch.maximum(radius, least), least + slack + hanging)
        scale = target / radius.clamp(min=1e-3)
        return axis + (points - axis) * scale[:, None]
