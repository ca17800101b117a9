"""The 68 landmarks of a face in the order of the iBUG 300-W scheme, as vertices of the head's mesh.

The positions were set by hand on the front view of the base mesh (decimeters, x to the person's
left); the nearest visible vertex takes each. The person's right side comes first, as in the scheme.
"""

from __future__ import annotations

import torch
from torch import Tensor

from domains.people.mesh import BODY, HeadMesh, vertex_normals

_JAW = (
    (0.72, 7.32), (0.715, 7.15), (0.70, 6.95), (0.665, 6.77), (0.59, 6.62),
    (0.485, 6.47), (0.32, 6.29), (0.155, 6.2), (0.0, 6.175),
)  # fmt: skip
_BROW = ((0.55, 7.43), (0.45, 7.49), (0.33, 7.51), (0.22, 7.49), (0.12, 7.45))
_BRIDGE = ((0.0, 7.32), (0.0, 7.21), (0.0, 7.10), (0.0, 6.97))
_NOSTRILS = ((0.125, 6.85), (0.065, 6.83), (0.0, 6.81))
_EYE = ((0.45, 7.285), (0.375, 7.335), (0.275, 7.33), (0.185, 7.27), (0.27, 7.238), (0.37, 7.238))
_UPPER_LIP = ((0.255, 6.61), (0.165, 6.69), (0.075, 6.715), (0.0, 6.695))
_LOWER_LIP = ((0.165, 6.545), (0.085, 6.52), (0.0, 6.515))
_INNER_UPPER = ((0.225, 6.612), (0.09, 6.622), (0.0, 6.62))
_INNER_LOWER = ((0.09, 6.602), (0.0, 6.6))
Points = tuple[tuple[float, float], ...]


def _mirror(right: Points) -> list[tuple[float, float]]:
    """Return a curve from the right side across the middle, its last point, to the left."""
    return [(-x, y) for x, y in right] + [(x, y) for x, y in right[-2::-1]]


def _positions() -> list[tuple[float, float]]:
    brow = [(-x, y) for x, y in _BROW] + [(x, y) for x, y in reversed(_BROW)]
    right_eye = [(-x, y) for x, y in _EYE]
    left_eye = [_EYE[i] for i in (3, 2, 1, 0, 5, 4)]
    lower = [(x, y) for x, y in _LOWER_LIP] + [(-x, y) for x, y in _LOWER_LIP[-2::-1]]
    inner_lower = [(x, y) for x, y in _INNER_LOWER] + [(-x, y) for x, y in _INNER_LOWER[-2::-1]]
    return [
        *_mirror(_JAW), *brow, *_BRIDGE, *_mirror(_NOSTRILS), *right_eye, *left_eye,
        *_mirror(_UPPER_LIP), *lower, *_mirror(_INNER_UPPER), *inner_lower,
    ]  # fmt: skip


def landmark_vertices(mesh: HeadMesh) -> Tensor:
    """Return the indices (68,) of the landmarks among the vertices of the part BODY."""
    body = mesh.parts[BODY]
    normals = vertex_normals(body.rest, body.triangles)
    positions = torch.tensor(_positions(), device=mesh.device)
    distance = torch.cdist(positions, body.rest[:, :2])
    hidden = (normals[:, 2] < 0.05) | (body.rest[:, 2] < 0.55)
    distance += hidden * 10.0 - body.rest[:, 2] * 0.01  # of near ones, the foremost
    return distance.argmin(1)
