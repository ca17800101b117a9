"""Measures heads where hair, wear and the camera are fitted to them."""

from __future__ import annotations

import torch
from torch import Tensor

from domains.people.face_shape import FaceShape, FaceShapes
from domains.people.hair import scalp_field
from domains.people.landmarks import landmark_vertices
from domains.people.mesh import BODY, HeadMesh
from domains.people.wear import headwear_field


class FaceMeasures:
    """Measures heads. The vertices that matter are the same on all of them."""

    def __init__(self, mesh: HeadMesh) -> None:
        self.mesh, rest = mesh, mesh.parts[BODY].rest
        self.landmarks = landmark_vertices(mesh)
        self._skull = torch.nonzero(scalp_field(rest) > 0.1).squeeze(1)
        self._ear_tips = self._nearest([(0.79, 7.25, 0.45), (-0.79, 7.25, 0.45)])
        self._lobes = self._nearest([(0.78, 6.86, 0.58), (-0.78, 6.86, 0.58)])
        self._hat_edge = torch.nonzero(headwear_field(rest, "hat").abs() < 0.06).squeeze(1)

    def _nearest(self, points: list[tuple[float, float, float]]) -> Tensor:
        target = torch.tensor(points, device=self.mesh.device)
        return torch.cdist(target, self.mesh.parts[BODY].rest).argmin(1)

    def measure(self, vertices: Tensor, positions: Tensor) -> tuple[FaceShapes, list[FaceShape]]:
        """Measure heads by vertices (h, n, 3) of the mesh and positions (h, v, 3) of the bodies."""
        spans = [vertices[:, index].aminmax(dim=1) for index in self.mesh.eye_vertices]
        centers = torch.stack([(low + high) / 2 for low, high in spans], 1)
        radius = (spans[0].max[:, 0] - spans[0].min[:, 0]) / 2
        marks = positions[:, self.landmarks]
        top = positions[:, self._skull, 2]
        center = torch.stack(
            [
                torch.zeros_like(radius),
                centers[:, 0, 1] + 0.11,
                (top.amin(1) + top.amax(1)) / 2,
            ],
            1,
        )
        brow_y, chin_y = marks[:, 17:27, 1].mean(1), marks[:, 8, 1]
        half = centers[..., 0].abs().mean(1) + radius * 2.0
        inner = marks[:, 60:68, 1]
        shapes = FaceShapes(
            torch.stack([half, brow_y, chin_y], 1),
            center,
            torch.stack([inner.amin(1) - 0.06, inner.amax(1) + 0.06], 1),
        )
        x, y = positions[..., 0].abs(), positions[..., 1] - centers[:, 0, 1:2]
        near = (x > 0.13) & (x < 0.62) & (y.abs() < 0.24)
        front = torch.where(near, positions[..., 2], -torch.inf).amax(1)
        numbers = torch.stack([radius, brow_y, chin_y, front], 1)
        places = [centers, center[:, None]]
        places += [positions[:, i] for i in (self._ear_tips, self._lobes, self._hat_edge)]
        packed = torch.cat([numbers, torch.cat(places, 1).flatten(1)], 1).cpu()
        return shapes, [_unpack(row) for row in packed]


def _unpack(row: Tensor) -> FaceShape:
    radius, brow_y, chin_y, front_z = row[:4].tolist()
    points = row[4:].view(-1, 3)
    return FaceShape(
        points[:2], radius, brow_y, chin_y, points[2], front_z, points[3:5], points[5:7], points[7:]
    )
