"""The surfaces of heads: skin, clothes, teeth, headwear, and what `wear.py` builds on the host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people import wear
from domains.people.face_shape import FaceShape, FaceShapes
from domains.people.hair import smoothstep
from domains.people.head import Head
from domains.people.mesh import BODY, TEETH, TONGUE, HeadMesh, vertex_normals
from domains.people.wear import Surface


@dataclass
class Bodies:
    """Heads of a batch: positions and normals (h, v, 3) of the bodies, vertices of the meshes."""

    heads: Sequence[Head]
    vertices: Tensor
    positions: Tensor
    normals: Tensor
    shapes: FaceShapes
    faces: Sequence[FaceShape]


@dataclass
class _Layer:
    """A layer over the body, the same on all heads that wear it.

    Attributes:
        field: (v,), the layer ends where it is negative.
        offset: (v,), distance from the skin; lift: (v,), how much higher it lies.
    """

    field: Tensor
    offset: Tensor
    lift: Tensor
    triangles: Tensor


class Surfaces:
    """Builds the surfaces of heads."""

    def __init__(self, mesh: HeadMesh) -> None:
        self.mesh, self.body = mesh, mesh.parts[BODY]
        self._layers: dict[str, _Layer] = {}

    @cached_property
    def _uvs(self) -> Tensor:
        return self.body.uvs[self.body.uv_triangles]

    def build(self, bodies: Bodies) -> tuple[list[list[Surface]], list[list[Surface]]]:
        """Return the surfaces of each head, and those of clear lenses, which lie over the image."""
        solid: list[list[Surface]] = [
            [Surface("skin", points, normals, self.body.triangles, self.body.rest, uvs=self._uvs)]
            for points, normals in zip(bodies.positions, bodies.normals, strict=True)
        ]
        self._add_clothes(solid, bodies)
        self._add_mouths(solid, bodies)
        self._add_headwear(solid, bodies)
        clear: list[list[Surface]] = [[] for _ in solid]
        built = [
            _build_on_host(head, face)
            for head, face in zip(bodies.heads, bodies.faces, strict=True)
        ]
        for k, surface in _upload(built, self.mesh.device):
            lens = surface.material == "lens" and bodies.heads[k].wear.glasses != "sunglasses"
            (clear if lens else solid)[k].append(surface)
        return solid, clear

    def _add_clothes(self, solid: list[list[Surface]], bodies: Bodies) -> None:
        layers = [self._clothes(head.wear.clothes) for head in bodies.heads]
        offset = torch.stack([layer.offset for layer in layers])[..., None]
        points = bodies.positions + bodies.normals * offset
        for k, layer in enumerate(layers):
            solid[k].append(
                Surface(
                    "cloth", points[k], bodies.normals[k], layer.triangles, self.body.rest,
                    keep=layer.field,
                )
            )  # fmt: skip

    def _add_mouths(self, solid: list[list[Surface]], bodies: Bodies) -> None:
        low, high = bodies.shapes.lips[:, :1], bodies.shapes.lips[:, 1:]
        for name in (*TEETH, TONGUE):
            part = self.mesh.parts[name]
            points = part.positions(bodies.vertices)
            normals = vertex_normals(points, part.triangles)
            # Only what lies between the lips' heights, so that no tooth pierces a chin.
            keep = torch.minimum(points[..., 1] - low, high - points[..., 1])
            material = "tongue" if name == TONGUE else "teeth"
            for k, surfaces in enumerate(solid):
                surfaces.append(
                    Surface(material, points[k], normals[k], part.triangles, part.rest, keep[k])
                )

    def _add_headwear(self, solid: list[list[Surface]], bodies: Bodies) -> None:
        """Add the crown of a hat, or a beanie with a cuff."""
        worn = [k for k, head in enumerate(bodies.heads) if head.wear.headwear]
        if not worn:
            return
        layers = [self._headwear(bodies.heads[k].wear.headwear) for k in worn]
        index = torch.tensor(worn, device=self.mesh.device)
        positions = bodies.positions[index]
        inside = torch.stack([layer.field > 0 for layer in layers])[..., None]
        center = (positions * inside).sum(1, keepdim=True) / inside.sum(1, keepdim=True)
        radial = F.normalize(positions - center, dim=2)
        away = F.normalize(0.6 * bodies.normals[index] + 0.4 * radial, dim=2)
        points = positions + away * torch.stack([layer.offset for layer in layers])[..., None]
        points[..., 1] += torch.stack([layer.lift for layer in layers])
        normals = vertex_normals(points, self.body.triangles)
        for row, (k, layer) in enumerate(zip(worn, layers, strict=True)):
            solid[k].append(
                Surface(
                    "headwear", points[row], normals[row], layer.triangles, self.body.rest,
                    keep=layer.field,
                )
            )  # fmt: skip

    def _clothes(self, kind: str) -> _Layer:
        if kind not in self._layers:
            field = wear.collar_field(self.body.rest, kind)
            offset = 0.035 + 0.01 * smoothstep(-field, -0.12, 0.02)
            if kind in ("turtleneck", "shirt"):
                offset = offset + 0.02 * smoothstep(-field, -0.45, -0.1)
            self._layers[kind] = self._layer(field, -0.3, offset, torch.zeros_like(field))
        return self._layers[kind]

    def _headwear(self, kind: str) -> _Layer:
        if kind not in self._layers:
            field = wear.headwear_field(self.body.rest, kind)
            if kind == "beanie":
                cuff = smoothstep(-field, -0.30, -0.27)
                offset = 0.09 + 0.05 * cuff + 0.12 * smoothstep(field, 0.3, 0.9)
                lift = 0.20 * smoothstep(field, 0.4, 1.0)
            else:
                offset = 0.10 + 0.06 * smoothstep(field, 0.2, 0.6)
                lift = 0.18 * smoothstep(field, 0.45, 0.75)
            self._layers[kind] = self._layer(field, -0.1, offset, lift)
        return self._layers[kind]

    def _layer(self, field: Tensor, lowest: float, offset: Tensor, lift: Tensor) -> _Layer:
        triangles = self.body.triangles
        return _Layer(field, offset, lift, triangles[(field[triangles] > lowest).any(1)])


def _build_on_host(head: Head, face: FaceShape) -> list[Surface]:
    """Build eyes, brim, earrings and glasses."""
    x, y = head.eyes.gaze
    gaze = F.normalize(torch.tensor([x, y, 1.0]), dim=0)
    surfaces = [wear.eyeball(eye, face.eye_radius, gaze) for eye in face.eyes]
    if head.wear.headwear == "hat":
        surfaces.append(wear.brim(face.hat_edge))
    if head.wear.earrings:
        surfaces.append(wear.earrings(face.lobes, head.wear.earrings == "hoops"))
    if head.wear.glasses:
        surfaces += wear.glasses(head.wear.glasses, face)
    return surfaces


def _upload(built: list[list[Surface]], device: torch.device) -> list[tuple[int, Surface]]:
    """Copy the surfaces of all heads to a device at once; return each with its head."""
    flat = [(k, surface) for k, surfaces in enumerate(built) for surface in surfaces]
    points = torch.cat([torch.cat([s.positions, s.normals, s.rest], 1) for _, s in flat])
    triangles = torch.cat([s.triangles for _, s in flat])
    points_of = points.to(device).split([len(s.positions) for _, s in flat])
    triangles_of = triangles.to(device).split([len(s.triangles) for _, s in flat])
    return [
        (k, Surface(s.material, *part[:, :6].split(3, 1), own, part[:, 6:]))
        for (k, s), part, own in zip(flat, points_of, triangles_of, strict=True)
    ]
