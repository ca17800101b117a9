"""Eyes, glasses, earrings and brims: triangles added to the skin's, built on the host.

They are small, so that a host builds them faster than a GPU is told to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.face_shape import FaceShape
from domains.people.hair import smoothstep
from domains.people.mesh import vertex_normals

MATERIALS = ("skin", "cloth", "eye", "teeth", "tongue", "headwear", "frame", "lens", "jewel")


@dataclass
class Surface:
    """Triangles of one material.

    Attributes:
        positions, normals: (v, 3).
        triangles: int64 (t, 3).
        rest: (v, 3), what the material's pattern is a function of.
        keep: (v,), the surface ends where it is negative; None draws all.
        uvs: (t, 3, 2), texture coordinates of the triangles' corners; None are zeros.
    """

    material: str
    positions: Tensor
    normals: Tensor
    triangles: Tensor
    rest: Tensor
    keep: Tensor | None = None
    uvs: Tensor | None = None


def _grid_triangles(rows: int, columns: int, device: torch.device) -> Tensor:
    index = torch.arange(rows * columns, device=device).view(rows, columns)
    a, b, c, d = index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]
    quads = torch.stack([a, b, c, a, c, d], -1)
    return quads.reshape(-1, 3)


def eyeball(center: Tensor, radius: float, gaze: Tensor) -> Surface:
    """Return an eyeball that looks along the unit vector `gaze`; `rest` is relative to it."""
    device = center.device
    theta = torch.linspace(0, 1, 28, device=device) ** 1.4 * 1.9
    phi = torch.linspace(0, 2 * math.pi, 41, device=device)
    t, p = torch.meshgrid(theta, phi, indexing="ij")
    local = torch.stack([t.sin() * p.cos(), t.sin() * p.sin(), t.cos()], -1).reshape(-1, 3)
    x = F.normalize(torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0], device=device), gaze), dim=0)
    frame = torch.stack([x, torch.linalg.cross(gaze, x), gaze])
    bulge = 1 + 0.05 * torch.exp(-((t / 0.42) ** 2)).reshape(-1, 1)
    normals = local @ frame
    positions = center + radius * 0.985 * bulge * normals
    return Surface("eye", positions, normals, _grid_triangles(28, 41, device), local)


def collar_field(rest: Tensor, kind: str) -> Tensor:
    """Return how far below the collar's edge points of the body lie, on the base mesh."""
    x, y, z = rest.unbind(-1)
    edge = 5.76 + (0.2 - z) * 0.34 + 0.6 * smoothstep(x.abs(), 0.62, 1.1)
    front = smoothstep(z, 0.1, 0.5)
    if kind == "v-neck":
        edge = edge + 0.05 - 0.55 * (1 - x.abs() / 0.42).clamp(0, 1) * front
    elif kind == "turtleneck":
        edge = edge + 0.32 + 0.05 * front
    elif kind == "shirt":
        edge = edge + 0.12 - 0.75 * (1 - x.abs() / 0.24).clamp(0, 1) * front
    else:
        edge = edge - 0.02 * front
    return edge - y


def headwear_field(rest: Tensor, kind: str) -> Tensor:
    """Return how far above the edge of a hat or beanie points of the head lie, on the base mesh."""
    line, slope = (7.80, 0.30) if kind == "hat" else (7.76, 0.38)
    return rest[..., 1] - (line - (1.45 - rest[..., 2]) * slope)


def brim(edge: Tensor) -> Surface:
    """Return a ring around the edge (n, 3) of a hat, bent down at the front and back."""
    x, z = edge[:, 0], edge[:, 2]
    design = torch.cat([edge[:, [0, 2]], torch.ones_like(x)[:, None]], 1)
    plane = torch.linalg.lstsq(design, edge[:, 1:2]).solution
    middle = (z.amax() + z.amin()) / 2
    half_x, half_z = x.abs().amax() + 0.07, (z.amax() - z.amin()) / 2 + 0.07
    angle = torch.linspace(0, 2 * math.pi, 97)
    out = torch.linspace(0, 0.42, 7)
    o, a = torch.meshgrid(out, angle, indexing="ij")
    bx, bz = (half_x + o) * a.sin(), middle + (half_z + o) * a.cos()
    by = plane[0] * bx + plane[1] * bz + plane[2] + 0.02
    by = by - 0.5 * o * o * a.cos().abs() + 0.9 * o * o * a.sin() ** 2
    points = torch.stack([bx, by, bz], -1).reshape(-1, 3)
    triangles = _grid_triangles(7, 97, edge.device)
    normals = vertex_normals(points, triangles)
    far = torch.full((len(points), 3), 9.0)
    return Surface("headwear", points, normals, triangles, far)


def tube(
    path: Tensor, radius: float | Tensor, closed: bool, sides: int = 8
) -> tuple[Tensor, Tensor]:
    """Return the vertices and triangles of a tube along points (n, 3)."""
    device = path.device
    if closed:
        path = torch.cat([path, path[:1]])
    tangent = torch.zeros_like(path)
    tangent[1:-1] = path[2:] - path[:-2]
    tangent[0] = path[1] - (path[-2] if closed else path[0])
    tangent[-1] = tangent[0] if closed else path[-1] - path[-2]
    tangent = F.normalize(tangent, dim=1)
    up = torch.tensor([0.02, 0.05, 1.0], device=device)
    if tangent[:, 2].abs().max() > 0.9:
        up = torch.tensor([0.05, 1.0, 0.02], device=device)
    a = F.normalize(torch.linalg.cross(tangent, up.expand_as(tangent)), dim=1)
    b = torch.linalg.cross(tangent, a)
    phi = torch.linspace(0, 2 * math.pi, sides + 1, device=device)
    ring = a[:, None] * phi.cos()[None, :, None] + b[:, None] * phi.sin()[None, :, None]
    points = (path[:, None] + radius * ring).reshape(-1, 3)
    return points, _grid_triangles(len(path), sides + 1, device)


def _merge(material: str, pieces: list[tuple[Tensor, Tensor]]) -> Surface:
    points = torch.cat([piece[0] for piece in pieces])
    starts = [0]
    for piece in pieces:
        starts.append(starts[-1] + len(piece[0]))
    triangles = torch.cat([piece[1] + start for piece, start in zip(pieces, starts, strict=False)])
    return Surface(material, points, vertex_normals(points, triangles), triangles, points)


def glasses(kind: str, face: FaceShape) -> tuple[Surface, Surface]:
    """Return frames and lenses.

    Args:
        kind: "round glasses", "square glasses" or "sunglasses".
        face: the face they are fitted to.
    """
    ears, device = face.ear_tips, face.ear_tips.device
    r = face.eye_radius
    z = face.front_z + 0.01
    width, height, power = {
        "round glasses": (1.62 * r, 1.52 * r, 2.0),
        "square glasses": (1.82 * r, 1.15 * r, 4.0),
        "sunglasses": (1.90 * r, 1.38 * r, 2.8),
    }[kind]
    thick = {"round glasses": 0.06, "square glasses": 0.085, "sunglasses": 0.08}[kind] * r
    angle = torch.linspace(0, 2 * math.pi, 49, device=device)[:-1]
    frames, lenses = [], []
    inner = []
    for eye, ear, sign in zip(face.eyes, ears, (1.0, -1.0), strict=True):
        middle = torch.stack(
            [eye[0] + sign * 0.18 * r, eye[1] - 0.22 * r, torch.tensor(z, device=device)]
        )
        c, s = angle.cos(), angle.sin()
        rx = c.sign() * c.abs() ** (2 / power) * width
        ry = s.sign() * s.abs() ** (2 / power) * height
        wrap = -0.10 * (rx * sign / width).clamp(min=0) ** 2 - 0.02 * ry / height
        rim = middle + torch.stack([rx, ry, wrap], 1)
        frames.append(tube(rim, thick, closed=True))
        fan = torch.cat([middle[None] + torch.tensor([0, 0, 0.02], device=device), rim])
        k = torch.arange(48, device=device)
        lenses.append((fan, torch.stack([torch.zeros_like(k), k + 1, (k + 1) % 48 + 1], 1)))
        hinge = middle + torch.tensor([sign * width, 0.25 * height, -0.10], device=device)
        side = torch.tensor(
            [sign * (abs(float(ear[0])) + 0.02), float(hinge[1]), z - 0.30], device=device
        )
        end = ear + torch.tensor([sign * 0.03, 0.03, -0.05], device=device)
        path = torch.stack([hinge, side, side + (end - side) * 0.5, end])
        frames.append(tube(path, thick * 0.8, closed=False))
        inner.append(
            middle - torch.tensor([sign * width * 0.97, -0.1 * height, 0.0], device=device)
        )
    bridge_middle = (inner[0] + inner[1]) / 2 + torch.tensor([0.0, 0.05, 0.02], device=device)
    frames.append(tube(torch.stack([inner[0], bridge_middle, inner[1]]), thick * 0.9, closed=False))
    return _merge("frame", frames), _merge("lens", lenses)


def earrings(lobes: Tensor, hoops: bool) -> Surface:
    """Return studs, or hoops that hang from the lobes (2, 3), left and right."""
    device = lobes.device
    angle = torch.linspace(0, 2 * math.pi, 25, device=device)[:-1]
    pieces = []
    for lobe in lobes:
        if hoops:
            ring = torch.stack([0.25 * angle.cos(), angle.sin(), 0.97 * angle.cos()], 1) * 0.105
            pieces.append(
                tube(lobe + ring - torch.tensor([0.0, 0.10, 0.0], device=device), 0.014, True)
            )
        else:
            t, p = torch.meshgrid(
                torch.linspace(0, math.pi, 9, device=device),
                torch.linspace(0, 2 * math.pi, 13, device=device),
                indexing="ij",
            )
            ball = torch.stack([t.sin() * p.cos(), t.cos(), t.sin() * p.sin()], -1).reshape(-1, 3)
            pieces.append((lobe + 0.04 * ball, _grid_triangles(9, 13, device)))
    return _merge("jewel", pieces)
