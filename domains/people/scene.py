"""What a camera sees: the projection, and the visible surface of every pixel."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people import wear
from domains.people.rasterizer import draw_triangles, interpolate_at, unpack_depth


@dataclass
class View:
    """A camera's frame: rows right, up, backward; and its origin and focal length in pixels."""

    frame: Tensor
    origin: Tensor
    focal: float
    size: int
    shift: tuple[float, float]
    scale: float  # pixels to a decimeter at the head

    def project(self, points: Tensor) -> Tensor:
        """Return pixel coordinates and depth (n, 3) of points (n, 3)."""
        local = (points - self.origin) @ self.frame.T
        depth = -local[:, 2]
        x = local[:, 0] / depth * self.focal + self.size * (0.5 + self.shift[0])
        y = -local[:, 1] / depth * self.focal + self.size * (0.5 + self.shift[1])
        return torch.stack([x, y, depth], 1)

    def matrix(self) -> Tensor:
        """Return the projection as a matrix (4, 4) for `strands.draw_strands_`."""
        right, up, back = self.frame
        center_x, center_y = (self.size * (0.5 + shift) for shift in self.shift)
        rows = torch.stack(
            [self.focal * right - center_x * back, -self.focal * up - center_y * back, -back, -back]
        )
        return torch.cat([rows, -(rows @ self.origin)[:, None]], 1)


@dataclass
class SurfaceSamples:
    """What is visible at pixels."""

    position: Tensor
    normal: Tensor
    rest: Tensor
    uv: Tensor
    material: Tensor


class Scene:
    """All surfaces as one mesh, and the visible triangle of every pixel."""

    def __init__(self, surfaces: list[wear.Surface], view: View) -> None:
        device = view.origin.device
        self.positions = torch.cat([s.positions for s in surfaces])
        self.normals = torch.cat([s.normals for s in surfaces])
        self.rest = torch.cat([s.rest for s in surfaces])
        keep = [
            torch.ones(len(s.positions), device=device) if s.keep is None else s.keep
            for s in surfaces
        ]
        triangles, materials_of, uvs, start = [], [], [], 0
        for surface in surfaces:
            count = len(surface.triangles)
            triangles.append(surface.triangles + start)
            start += len(surface.positions)
            number = wear.MATERIALS.index(surface.material)
            materials_of.append(torch.full((count,), number, device=device))
            uvs.append(
                surface.uvs if surface.uvs is not None else torch.zeros(count, 3, 2, device=device)
            )
        self.triangles, self.material = torch.cat(triangles), torch.cat(materials_of)
        self.uvs = torch.cat(uvs)
        self.size = view.size
        self.points = view.project(self.positions)
        self.keys = draw_triangles(self.points[None], self.triangles, view.size, torch.cat(keep))[0]
        self.depth = unpack_depth(self.keys)

    def attributes(self, pixel: Tensor) -> SurfaceSamples:
        """Interpolate the visible surface at pixels (p,)."""
        triangle = self.keys[pixel] & 0xFFFFFFFF
        weights = interpolate_at(self.points, self.triangles, self.size, pixel, triangle)[..., None]
        corners = self.triangles[triangle]
        return SurfaceSamples(
            (self.positions[corners] * weights).sum(1),
            F.normalize((self.normals[corners] * weights).sum(1), dim=1),
            (self.rest[corners] * weights).sum(1),
            (self.uvs[triangle] * weights).sum(1),
            self.material[triangle],
        )
