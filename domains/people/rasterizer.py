"""A rasterizer: visibility by an atomic minimum over packed keys of depth and index.

It draws tens of thousands of triangles of a few pixels each, and millions of points: on a GPU by
the kernels of `kernels.py`, on a CPU in PyTorch. Results do not depend on the order of execution.
"""

from __future__ import annotations

import torch
from torch import Tensor

EMPTY = torch.iinfo(torch.int64).max
_BOXES = (2, 4, 8, 16, 48, 160, 800)  # sides of the boxes in pixels that triangles are sorted into
_MAX_CANDIDATES = 1 << 24  # tested pixels at once, which bounds memory


def _pack(depth: Tensor, index: Tensor) -> Tensor:
    """Pack positive depths and indices so that the order of the keys is that of the depths."""
    return (depth.float().contiguous().view(torch.int32).long() << 32) | index


def unpack_depth(keys: Tensor) -> Tensor:
    """Return the depths of keys, infinity where nothing was drawn."""
    depth = (keys >> 32).int().view(torch.float32)
    return torch.where(keys == EMPTY, torch.full_like(depth, torch.inf), depth)


def draw_triangles(
    points: Tensor, triangles: Tensor, heads: Tensor, size: int, keep: Tensor | None = None
) -> Tensor:
    """Draw the triangles of several heads into several views of each; return each pixel's key.

    Args:
        points: (heads, views, v, 3): x right and y down in pixels, positive depth.
        triangles: int64 (t, 3), among their head's points; heads: int64 (t,), the head of each.
        size: side of the images.
        keep: (heads, v), interpolated over each triangle; pixels where it is negative stay empty.

    Returns:
        Keys, int64 (heads, views, size * size): the low 32 bits are the triangle's index.
    """
    num_heads, views = points.shape[:2]
    keys = torch.full((num_heads, views, size * size), EMPTY, device=points.device)
    if keys.is_cuda:
        from domains.people import kernels

        kernels.draw_triangles_(keys, points, triangles, heads, size, keep)
        return keys
    corners = points[heads[:, None], :, triangles].permute(2, 0, 1, 3).flatten(0, 1)
    image_of = (torch.arange(views)[:, None] + heads * views).flatten()
    index_of = torch.arange(len(triangles)).repeat(views)
    low = (corners[..., :2].amin(1) - 0.5).ceil().clamp_(min=0).long()
    high = (corners[..., :2].amax(1) - 0.5).floor().clamp_(max=size - 1).long()
    extent = (high - low).amax(1) + 1
    inside = ((high - low).amin(1) >= 0) & (corners[..., 2].amin(1) > 0)
    smallest = 0
    for side in _BOXES:
        selected = torch.nonzero(inside & (extent > smallest) & (extent <= side)).squeeze(1)
        smallest = side
        for chunk in selected.split(max(_MAX_CANDIDATES // side**2, 1)):
            index = index_of[chunk]
            keep_at = None if keep is None else keep[heads[index, None], triangles[index]]
            _draw_boxes(
                keys.view(-1),
                corners[chunk],
                low[chunk],
                side,
                image_of[chunk],
                index,
                size,
                keep_at,
            )
    return keys


def _draw_boxes(
    keys: Tensor,
    corners: Tensor,
    low: Tensor,
    side: int,
    image: Tensor,
    index: Tensor,
    size: int,
    keep: Tensor | None,
) -> None:
    """Test all pixels of each triangle's box and lower the keys of those covered."""
    step = torch.arange(side, device=keys.device, dtype=torch.float32)
    dx, dy = step.repeat(side), step.repeat_interleave(side)
    # Barycentric coordinates are linear over the box: their values at its first pixel, and slopes.
    origin = low.float() + 0.5
    first = _barycentric(corners, origin[:, 0], origin[:, 1])
    right = _barycentric(corners, origin[:, 0] + 1, origin[:, 1]) - first
    down = _barycentric(corners, origin[:, 0], origin[:, 1] + 1) - first
    covered = (low[:, 0, None] + dx < size) & (low[:, 1, None] + dy < size)
    for corner in range(3):
        weight = first[:, corner, None] + right[:, corner, None] * dx + down[:, corner, None] * dy
        covered &= weight >= -1e-4
    triangle, position = torch.nonzero(covered).unbind(1)
    x, y = dx[position], dy[position]
    weights = first[triangle] + right[triangle] * x[:, None] + down[triangle] * y[:, None]
    key = _pack((weights * corners[triangle, :, 2]).sum(1).clamp(min=1e-6), index[triangle])
    if keep is not None:
        key[(weights * keep[triangle]).sum(1) < 0] = EMPTY
    pixel = (image * size * size + low[:, 1] * size + low[:, 0])[triangle] + (y * size + x).long()
    keys.scatter_reduce_(0, pixel, key, "amin")


def _barycentric(corners: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Return barycentric coordinates (..., 3) of pixels in triangles with corners (..., 3, 3)."""
    ax, ay = corners[..., 0, 0], corners[..., 0, 1]
    bx, by = corners[..., 1, 0] - ax, corners[..., 1, 1] - ay
    cx, cy = corners[..., 2, 0] - ax, corners[..., 2, 1] - ay
    area = bx * cy - by * cx
    area = torch.where(area.abs() < 1e-9, torch.full_like(area, torch.inf), area)
    px, py = x - ax, y - ay
    v = (px * cy - py * cx) / area
    w = (bx * py - by * px) / area
    flat = area.isinf()
    u = torch.where(flat, -torch.ones_like(v), 1 - v - w)
    return torch.stack([u, v, w], -1)


def interpolate_at(corners: Tensor, size: int, pixel: Tensor) -> Tensor:
    """Return barycentric coordinates (p, 3) of pixels in triangles with corners (p, 3, 3)."""
    return _barycentric(corners, pixel % size + 0.5, pixel.div(size, rounding_mode="floor") + 0.5)


def draw_points_(
    keys: Tensor, points: Tensor, index: Tensor, size: int, counts: Tensor | None = None
) -> None:
    """Draw points of one pixel each into the keys of an image, int64 (size * size,).

    Args:
        points: (n, 3), as of `draw_triangles`; index: int64 (n,).
        counts: (size * size,); each point inside the image adds 1.
    """
    x, y = points[:, 0].floor().long(), points[:, 1].floor().long()
    inside = (x >= 0) & (x < size) & (y >= 0) & (y < size) & (points[:, 2] > 0)
    pixel = (y * size + x)[inside]
    keys.scatter_reduce_(0, pixel, _pack(points[:, 2], index)[inside], "amin")
    if counts is not None:
        counts.scatter_add_(0, pixel, torch.ones_like(points[:, 2])[inside])
