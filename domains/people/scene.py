"""What cameras see: the projection, and the visible surface of every pixel.

A batch has one view of each head. Pixels of all views are counted on: pixel p belongs to the head
p // size**2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.rasterizer import draw_triangles, interpolate_at, unpack_depth
from domains.people.wear import MATERIALS, Surface


def turn(vectors: Tensor, frames: Tensor) -> Tensor:
    """Return the components of vectors (..., 3) along the rows of frames (..., 3, 3), in float32.

    A matrix product may have less precision on a GPU.
    """
    return (frames * vectors[..., None, :]).sum(-1)


@dataclass
class Views:
    """The cameras of a batch.

    Attributes:
        frames: (h, 3, 3), rows right, up, backward; origins: (h, 3).
        focals: (h,), in pixels; centers: (h, 2), the optical axes in pixels.
        size: side of the images; scales: pixels to a decimeter at each head.
    """

    frames: Tensor
    origins: Tensor
    focals: Tensor
    centers: Tensor
    size: int
    scales: list[float]

    def project(self, points: Tensor) -> Tensor:
        """Return pixel coordinates and depth (h, n, 3) of points (h, n, 3)."""
        local = turn(points - self.origins[:, None], self.frames[:, None])
        depth = -local[..., 2]
        scale = self.focals[:, None] / depth
        x = local[..., 0] * scale + self.centers[:, :1]
        y = -local[..., 1] * scale + self.centers[:, 1:]
        return torch.stack([x, y, depth], 2)

    def matrices(self) -> Tensor:
        """Return the projections as matrices (h, 4, 4) for `strands.draw_strands_`."""
        right, up, back = self.frames.unbind(1)
        center_x, center_y = self.centers[:, :1], self.centers[:, 1:]
        focal = self.focals[:, None]
        rows = [focal * right - center_x * back, -focal * up - center_y * back, -back, -back]
        stacked = torch.stack(rows, 1)
        return torch.cat([stacked, -(stacked @ self.origins[..., None])], 2)


@dataclass
class SurfaceSamples:
    """What is visible at pixels; `head` is the head of each."""

    head: Tensor
    position: Tensor
    normal: Tensor
    rest: Tensor
    uv: Tensor
    material: Tensor


class Geometry:
    """The surfaces of each head as one mesh, all with the same number of vertices.

    Attributes:
        positions, normals, rest: (h, v, 3); keep: (h, v), see `Surface`.
        triangles: int64 (t, 3), of all heads; heads, material: int64 (t,).
        uvs: (t, 3, 2).
    """

    def __init__(self, surfaces: Sequence[Sequence[Surface]], device: torch.device) -> None:
        counts = [sum(len(s.positions) for s in some) for some in surfaces]
        self.size = max(counts)
        zeros = torch.zeros(self.size, 3, device=device)
        ones = torch.ones(self.size, device=device)

        def stack(name: str, default: Tensor) -> Tensor:
            pieces = []
            for some, count in zip(surfaces, counts, strict=True):
                for surface in some:
                    value = getattr(surface, name)
                    pieces.append(default[: len(surface.positions)] if value is None else value)
                pieces.append(default[: self.size - count])
            return torch.cat(pieces).view(len(surfaces), self.size, *default.shape[1:])

        self.positions, self.normals = stack("positions", zeros), stack("normals", zeros)
        self.rest, self.keep = stack("rest", zeros), stack("keep", ones)
        flat = [surface for some in surfaces for surface in some]
        info = []
        for head, some in enumerate(surfaces):
            start = 0
            for surface in some:
                info.append((start, head, MATERIALS.index(surface.material)))
                start += len(surface.positions)
        lengths = [len(surface.triangles) for surface in flat]
        repeats = torch.tensor(lengths, device=device)
        columns = torch.tensor(info, device=device).repeat_interleave(
            repeats, 0, output_size=sum(lengths)
        )
        self.triangles = torch.cat([s.triangles for s in flat]) + columns[:, :1]
        self.heads, self.material = columns[:, 1].contiguous(), columns[:, 2]
        none = torch.zeros(max(lengths), 3, 2, device=device)
        self.uvs = torch.cat([none[: len(s.triangles)] if s.uvs is None else s.uvs for s in flat])


class Scene:
    """The visible triangle of every pixel of every view."""

    def __init__(self, geometry: Geometry, views: Views) -> None:
        self.geometry, self.size = geometry, views.size
        self.points = views.project(geometry.positions)
        self.keys = draw_triangles(
            self.points[:, None], geometry.triangles, geometry.heads, views.size, geometry.keep
        ).flatten()
        self.depth = unpack_depth(self.keys)

    def attributes(self, pixel: Tensor) -> SurfaceSamples:
        """Interpolate the visible surface at pixels (p,)."""
        mesh = self.geometry
        triangle = self.keys[pixel] & 0xFFFFFFFF
        head = mesh.heads[triangle]
        corners = mesh.triangles[triangle] + (head * mesh.size)[:, None]
        local = pixel % self.size**2
        at_corners = self.points.view(-1, 3)[corners]
        weights = interpolate_at(at_corners, self.size, local)[..., None]
        position, normal, rest = (
            (values.view(-1, 3)[corners] * weights).sum(1)
            for values in (mesh.positions, mesh.normals, mesh.rest)
        )
        uv = (mesh.uvs[triangle] * weights).sum(1)
        normal = F.normalize(normal, dim=1)
        return SurfaceSamples(head, position, normal, rest, uv, mesh.material[triangle])
