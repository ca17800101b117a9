"""The head's topology: parts, subdivision and masks, constant for all heads, and its deformation.

Coordinates are decimeters, x to the person's left, y up, z forward. `rest` coordinates are those of
the base mesh; regions of the face are functions of them, so that they follow every deformation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

BODY = "body"
TEETH = ("helper-upper-teeth", "helper-lower-teeth")
TONGUE = "helper-tongue"
LASHES = tuple(f"helper-{side}-eyelashes-{row}" for side in "lr" for row in (1, 2))
_ARMS_DOWN = 0.6  # radians
EYES = ("helper-l-eye", "helper-r-eye")


def subdivide(
    faces: np.ndarray, count: int, smooth: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Subdivide quads once, by Catmull and Clark's rules (1978), or linearly for coordinates.

    Args:
        faces: indices (f, 4) of `count` vertices.
        count: number of vertices.
        smooth: whether to smooth; a border becomes a cubic B-spline.

    Returns:
        New faces (4 f, 4), and the matrix of new from old vertices as rows, columns, values.
    """
    edges = np.stack([faces, np.roll(faces, -1, 1)], -1).reshape(-1, 2)
    unique, inverse, uses = np.unique(
        np.sort(edges, 1), axis=0, return_inverse=True, return_counts=True
    )
    inverse = inverse.reshape(faces.shape)
    first_edge, first_face = count, count + len(unique)
    face_ids = first_face + np.arange(len(faces))
    entries: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []

    def add(rows: np.ndarray, columns: np.ndarray, values: np.ndarray | float) -> None:
        entries.append((rows, columns, np.broadcast_to(np.asarray(values, float), rows.shape)))

    add(np.repeat(face_ids, 4), faces.ravel(), 0.25)
    edge_ids = first_edge + np.arange(len(unique))
    inner = (uses == 2) & smooth
    for side in range(2):
        add(edge_ids, unique[:, side], np.where(inner, 0.25, 0.5))
    use_of_edge = inner[inverse.ravel()]
    rows = first_edge + inverse.ravel()[use_of_edge]
    corners = np.repeat(faces, 4, 0)[use_of_edge]
    add(np.repeat(rows, 4), corners.ravel(), 1 / 16)
    border = np.zeros(count, bool)
    border[unique[uses == 1].ravel()] = True
    if not smooth:
        border[:] = True
    valence = np.maximum(np.bincount(unique.ravel(), minlength=count), 3)
    num_faces = np.maximum(np.bincount(faces.ravel(), minlength=count), 1)
    ids = np.arange(count)
    border_edges = unique[uses == 1] if smooth else unique[:0]
    add(ids, ids, np.where(border, 0.75 if smooth else 1.0, (valence - 3) / valence))
    for a, b in (border_edges.T, border_edges.T[::-1]) if len(border_edges) else ():
        add(a, b, 0.125)
    at = np.repeat(faces.ravel(), 4)  # every corner's vertex, with all corners of its face
    around = np.repeat(faces, 4, 0).ravel()
    inside = ~border[at]
    add(at[inside], around[inside], (0.25 / (num_faces * valence))[at[inside]])
    for a, b in (unique.T, unique.T[::-1]):
        inside = ~border[a]
        degree = np.maximum(np.bincount(unique.ravel(), minlength=count), 1)
        weight = (2 / (valence * degree))[a[inside]] / 2
        add(a[inside], a[inside], weight)
        add(a[inside], b[inside], weight)
    new_faces = np.stack(
        [
            faces,
            first_edge + inverse,
            np.repeat(face_ids[:, None], 4, 1),
            np.roll(first_edge + inverse, 1, 1),
        ],
        -1,
    ).reshape(-1, 4)
    parts = zip(*entries, strict=True)
    stacked = tuple(np.concatenate(part) for part in parts)
    return new_faces, *stacked  # type: ignore[return-value]


def _sparse(
    shape: tuple[int, int], rows: np.ndarray, columns: np.ndarray, values: np.ndarray
) -> Tensor:
    indices = torch.from_numpy(np.stack([rows, columns]))
    return torch.sparse_coo_tensor(
        indices, torch.from_numpy(values.astype(np.float32)), shape, check_invariants=True
    ).coalesce()


def _triangles(quads: np.ndarray) -> np.ndarray:
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    a, b, c = triangles.T
    return triangles[(a != b) & (b != c) & (a != c)]


@dataclass
class Part:
    """A part of the mesh after subdivision.

    Attributes:
        matrix: sparse (v, n), its vertices from those of the base mesh.
        triangles: int64 (t, 3); uv_triangles: the same corners as indices into `uvs`.
        uvs: float32 (u, 2), v up.
        rest: float32 (v, 3), its vertices on the base mesh.
    """

    matrix: Tensor
    triangles: Tensor
    uv_triangles: Tensor
    uvs: Tensor
    rest: Tensor

    def positions(self, vertices: Tensor) -> Tensor:
        """Return this part's vertices (B, v, 3) of the heads' `vertices` (B, n, 3)."""
        columns = vertices.transpose(0, 1).flatten(1)
        points = torch.sparse.mm(self.matrix, columns).view(-1, len(vertices), 3)
        return points.transpose(0, 1).contiguous()


class HeadMesh:
    """The base mesh of all heads on a device, and the targets that shape them."""

    def __init__(self, path: Path, device: torch.device) -> None:
        self.device = device
        with np.load(path) as data:
            arrays = {name: data[name] for name in data.files}
        self.base = torch.from_numpy(arrays["vertices"]).to(device)
        self._arrays = arrays
        self.parts = {
            name: self._build_part(name, levels)
            for name, levels in {BODY: 1, **dict.fromkeys((*TEETH, TONGUE), 1)}.items()
        }
        self.targets = tuple(str(name) for name in arrays["target_names"])
        counts = torch.from_numpy(arrays["target_counts"].astype(np.int64))
        # The offsets of all targets, one after the other: the target and the vertex of each.
        self._target_of = torch.arange(len(counts)).repeat_interleave(counts).to(device)
        self._vertex_of = torch.from_numpy(arrays["target_indices"].astype(np.int64)).to(device)
        self._offsets = torch.from_numpy(arrays["target_offsets"].astype(np.float32)).to(device)
        self.masks = torch.stack(
            [
                torch.from_numpy(arrays[f"mask/{name}"].astype(np.float32) / 255)
                for name in ("lips", "eyelids", "ears", "inside-mouth")
            ]
        ).to(device)
        self.eye_vertices = [self._vertices_of(name) for name in EYES]
        self.lash_rows = [self._find_lash_rows(name) for name in LASHES]
        self.vertex_masks = self._vertex_masks()
        reach = self.base[:, 0].abs()
        shoulder = (reach > 1.15) & (reach < 1.4) & (self.base[:, 1] > 4.9)
        self._shoulders = torch.nonzero(shoulder).squeeze(1)
        t = ((reach - 0.9) / 1.1).clamp(0, 1)
        self._arm_angles = _ARMS_DOWN * t * t * (3 - 2 * t)

    def sample_masks(self, uv: Tensor) -> Tensor:
        """Return the masks (p, 4) at texture coordinates (p, 2): lips, eyelids, ears, mouth."""
        grid = torch.stack([uv[:, 0] * 2 - 1, 1 - uv[:, 1] * 2], 1)
        sampled = torch.nn.functional.grid_sample(
            self.masks[None], grid[None, None], align_corners=False
        )
        return sampled[0, :, 0].T

    def _vertex_masks(self) -> Tensor:
        """Return the masks (v, 4) at the body's vertices."""
        body = self.parts[BODY]
        masks = torch.zeros(len(body.rest), 4, device=self.device)
        sampled = self.sample_masks(body.uvs)
        for corner in range(3):
            masks[body.triangles[:, corner]] = sampled[body.uv_triangles[:, corner]]
        return masks

    def _vertices_of(self, part: str) -> Tensor:
        unique = np.unique(self._arrays[f"faces/{part}"].astype(np.int64))
        return torch.from_numpy(unique).to(self.device)

    def _build_part(self, name: str, levels: int) -> Part:
        faces = self._arrays[f"faces/{name}"].astype(np.int64)
        uv_faces = self._arrays[f"uv_faces/{name}"].astype(np.int64)
        used, faces = np.unique(faces, return_inverse=True)
        faces = faces.reshape(-1, 4)
        used_uvs, uv_faces = np.unique(uv_faces, return_inverse=True)
        uv_faces = uv_faces.reshape(-1, 4)
        total = len(self._arrays["vertices"])
        matrix = _sparse((len(used), total), np.arange(len(used)), used, np.ones(len(used)))
        uvs = torch.from_numpy(self._arrays["uvs"][used_uvs])
        for _ in range(levels):
            count = matrix.shape[0]
            faces, *entries = subdivide(faces, count)
            step = _sparse((int(entries[0].max()) + 1, count), *entries)
            matrix = torch.sparse.mm(step, matrix).coalesce()
            uv_faces, *entries = subdivide(uv_faces, len(uvs), smooth=False)
            step = _sparse((int(entries[0].max()) + 1, len(uvs)), *entries)
            uvs = torch.sparse.mm(step, uvs)
        a, b, c, d = faces.T
        degenerate = (a == b) | (b == c) | (c == d) | (d == a)
        faces, uv_faces = faces[~degenerate], uv_faces[~degenerate]
        matrix = matrix.to(self.device)
        return Part(
            matrix,
            torch.from_numpy(_triangles(faces)).to(self.device),
            torch.from_numpy(_triangles(uv_faces)).to(self.device),
            uvs.to(self.device),
            torch.sparse.mm(matrix, self.base),
        )

    def _find_lash_rows(self, name: str) -> tuple[Tensor, Tensor]:
        """Return vertices along the lid where lashes begin, and the ones where they end."""
        ids = np.unique(self._arrays[f"faces/{name}"].astype(np.int64))
        points = self._arrays["vertices"][ids]
        eye = self._arrays["vertices"][
            np.unique(self._arrays[f"faces/helper-{name[7]}-eye"].astype(np.int64))
        ].mean(0)
        distance = np.linalg.norm(points - eye, axis=1)
        x = points[:, 0]
        edges = np.quantile(x, np.linspace(0, 1, 10))
        roots, tips = [], []
        for low, high in pairwise(edges):
            inside = np.flatnonzero((x >= low) & (x <= high))
            roots.append(ids[inside[distance[inside].argmin()]])
            tips.append(ids[inside[distance[inside].argmax()]])
        return torch.tensor(roots, device=self.device), torch.tensor(tips, device=self.device)

    def deform(self, heads: Sequence[Mapping[str, float]]) -> Tensor:
        """Return the base mesh's vertices (B, n, 3), with each head's weighted targets added."""
        weight_of = torch.tensor([[w.get(name, 0.0) for name in self.targets] for w in heads])
        offsets = self._offsets * weight_of.to(self.device)[:, self._target_of, None]
        base = self.base.expand(len(heads), -1, -1)
        return self._lower_arms(base.index_add(1, self._vertex_of, offsets))

    def _lower_arms(self, vertices: Tensor) -> Tensor:
        """Turn the arms, which the base mesh stretches out, down from the shoulders."""
        x, y, z = vertices.unbind(2)
        angle = self._arm_angles
        pivot_x = x[:, self._shoulders].abs().mean(1, keepdim=True)
        pivot_y = y[:, self._shoulders].mean(1, keepdim=True)
        out, up = x.abs() - pivot_x, y - pivot_y
        turned_x = pivot_x + out * angle.cos() + up * angle.sin()
        turned_y = pivot_y - out * angle.sin() + up * angle.cos()
        return torch.stack([turned_x * torch.sign(x), turned_y, z], 2)


def vertex_normals(positions: Tensor, triangles: Tensor) -> Tensor:
    """Return unit normals (..., v, 3), the areas' mean of the adjacent triangles."""
    a, b, c = (positions[..., triangles[:, corner], :] for corner in range(3))
    face = torch.linalg.cross(b - a, c - a)
    normals = torch.zeros_like(positions)
    for corner in range(3):
        normals.index_add_(-2, triangles[:, corner], face)
    return torch.nn.functional.normalize(normals, dim=-1)
