"""Kernels of the rasterizer for GPUs, in Triton (the GPU language, not the server).

Each draws by an atomic minimum over keys of depth and index; `rasterizer.py` and `strands.py` have
the same formulas in PyTorch, for CPUs.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

_TRIANGLES = 32  # of a program: as many as a warp has lanes
_POINTS = 1024


@triton.jit
def _pack(depth, index):
    """Return keys whose order is that of the positive depths, then of the indices."""
    bits = depth.to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64)
    return (bits << 32) | index.to(tl.int64)


# Numbers that differ from head to head; a kernel for each kind of number would be compiled.
@triton.jit(do_not_specialize=["views", "vertices", "count", "size"])
def _triangles_kernel(
    keys_ptr, points_ptr, triangles_ptr, heads_ptr, keep_ptr, views, vertices, count, size,
    HAS_KEEP: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each lane visits the pixels of its triangle's box, row by row."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = index < count
    head = tl.load(heads_ptr + index, exists, 0)
    image = head * views + tl.program_id(1)
    a = tl.load(triangles_ptr + index * 3, exists, 0)
    b = tl.load(triangles_ptr + index * 3 + 1, exists, 0)
    c = tl.load(triangles_ptr + index * 3 + 2, exists, 0)
    keep_ptrs = keep_ptr + head * vertices
    points_ptr += image * vertices * 3
    ax, ay = tl.load(points_ptr + a * 3, exists, 0.0), tl.load(points_ptr + a * 3 + 1, exists, 0.0)
    bx, by = tl.load(points_ptr + b * 3, exists, 0.0), tl.load(points_ptr + b * 3 + 1, exists, 0.0)
    cx, cy = tl.load(points_ptr + c * 3, exists, 0.0), tl.load(points_ptr + c * 3 + 1, exists, 0.0)
    az = tl.load(points_ptr + a * 3 + 2, exists, 0.0)
    bz = tl.load(points_ptr + b * 3 + 2, exists, 0.0)
    cz = tl.load(points_ptr + c * 3 + 2, exists, 0.0)
    keep_a, keep_b, keep_c = az, bz, cz
    if HAS_KEEP:
        keep_a = tl.load(keep_ptrs + a, exists, 0.0)
        keep_b = tl.load(keep_ptrs + b, exists, 0.0)
        keep_c = tl.load(keep_ptrs + c, exists, 0.0)
    # Boxes far outside the image would overflow integers.
    left = tl.maximum(tl.minimum(tl.minimum(ax, bx), cx) - 0.5, 0.0)
    top = tl.maximum(tl.minimum(tl.minimum(ay, by), cy) - 0.5, 0.0)
    right = tl.minimum(tl.maximum(tl.maximum(ax, bx), cx) - 0.5, size - 1.0)
    bottom = tl.minimum(tl.maximum(tl.maximum(ay, by), cy) - 0.5, size - 1.0)
    inside = exists & (left <= right) & (top <= bottom)
    inside &= tl.minimum(tl.minimum(az, bz), cz) > 0
    area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
    inside &= tl.abs(area) >= 1e-9
    area = tl.where(inside, area, 1.0)
    left, top = tl.where(inside, left, 0.0), tl.where(inside, top, 0.0)
    first_x, first_y = tl.ceil(left).to(tl.int32), tl.ceil(top).to(tl.int32)
    last_x = tl.floor(tl.where(inside, right, -1.0)).to(tl.int32)
    last_y = tl.floor(tl.where(inside, bottom, -1.0)).to(tl.int32)
    width = tl.maximum(last_x - first_x + 1, 0)
    pixels = width * tl.maximum(last_y - first_y + 1, 0)
    x, y = first_x, first_y
    image_ptr = keys_ptr + image * size * size
    for _ in range(0, tl.max(pixels, 0)):
        px, py = x + 0.5 - ax, y + 0.5 - ay
        v = (px * (cy - ay) - py * (cx - ax)) / area
        w = ((bx - ax) * py - (by - ay) * px) / area
        u = 1 - v - w
        covered = (pixels > 0) & (y <= last_y) & (u >= -1e-4) & (v >= -1e-4) & (w >= -1e-4)
        if HAS_KEEP:
            covered &= u * keep_a + v * keep_b + w * keep_c >= 0
        depth = tl.maximum(u * az + v * bz + w * cz, 1e-6)
        tl.atomic_min(image_ptr + y * size + x, _pack(depth, index), covered, sem="relaxed")
        x += 1
        y = tl.where(x > last_x, y + 1, y)
        x = tl.where(x > last_x, first_x, x)


def draw_triangles_(
    keys: Tensor, points: Tensor, triangles: Tensor, heads: Tensor, size: int, keep: Tensor | None
) -> None:
    """Draw triangles into keys, int64 (heads, views, size * size).

    Args:
        points: float32 (heads, views, v, 3): x right and y down in pixels, depth.
        triangles: int64 (t, 3); heads: int64 (t,), the head of each.
        keep: float32 (heads, v), interpolated; pixels where it is negative stay empty.
    """
    points, triangles = points.contiguous(), triangles.contiguous()
    views, vertices, count = points.shape[1], points.shape[2], triangles.shape[0]
    _triangles_kernel[(triton.cdiv(count, _TRIANGLES), views)](
        keys, points, triangles, heads.contiguous(), points if keep is None else keep.contiguous(),
        views, vertices, count, size, HAS_KEEP=keep is not None, BLOCK=_TRIANGLES, num_warps=1,
    )  # fmt: skip


@triton.jit(
    do_not_specialize=["first", "total", "steps", "num_nodes", "row", "every", "size"],
    do_not_specialize_on_alignment=["keys_ptr", "counts_ptr", "nodes_ptr", "fraction_ptr"],
)
def _strands_kernel(
    keys_ptr, counts_ptr, nodes_ptr, fraction_ptr, matrices_ptr, first, total, steps, num_nodes,
    row, every, size, COUNT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Each lane draws one point: step by step along one strand after the other."""
    image = tl.program_id(1).to(tl.int64)
    point = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    exists = point < total
    strand, step = point // steps * every, point % steps
    along = step.to(tl.float32) / (steps - 1).to(tl.float32)
    t = along * (num_nodes - 1 - 1e-4)
    node = tl.minimum(t.to(tl.int32), num_nodes - 2)
    w = t - node.to(tl.float32)
    fraction = tl.load(fraction_ptr + strand, exists, -1.0)
    drawn = exists & (t / (num_nodes - 1) <= fraction)
    nodes_ptrs = nodes_ptr + (strand * row + node).to(tl.int64) * 3
    px = tl.load(nodes_ptrs, drawn, 0.0) * (1 - w) + tl.load(nodes_ptrs + 3, drawn, 0.0) * w
    py = tl.load(nodes_ptrs + 1, drawn, 0.0) * (1 - w) + tl.load(nodes_ptrs + 4, drawn, 0.0) * w
    pz = tl.load(nodes_ptrs + 2, drawn, 0.0) * (1 - w) + tl.load(nodes_ptrs + 5, drawn, 0.0) * w
    m = matrices_ptr + image * 16
    across = tl.load(m) * px + tl.load(m + 1) * py + tl.load(m + 2) * pz + tl.load(m + 3)
    down = tl.load(m + 4) * px + tl.load(m + 5) * py + tl.load(m + 6) * pz + tl.load(m + 7)
    scale = tl.load(m + 8) * px + tl.load(m + 9) * py + tl.load(m + 10) * pz + tl.load(m + 11)
    depth = tl.load(m + 12) * px + tl.load(m + 13) * py + tl.load(m + 14) * pz + tl.load(m + 15)
    drawn &= (scale > 0) & (depth > 0)
    scale = tl.where(drawn, scale, 1.0)
    x, y = across / scale, down / scale
    drawn &= (x >= 0) & (x < size) & (y >= 0) & (y < size)
    x, y = tl.where(drawn, x, 0.0).to(tl.int32), tl.where(drawn, y, 0.0).to(tl.int32)
    pixel = image * size * size + y * size + x
    key = _pack(depth, first + point)
    tl.atomic_min(keys_ptr + pixel, key, drawn, sem="relaxed")
    if COUNT:
        tl.atomic_add(counts_ptr + pixel, tl.full((BLOCK,), 1.0, tl.float32), drawn, sem="relaxed")


def draw_strands_(
    keys: Tensor,
    counts: Tensor | None,
    nodes: Tensor,
    fraction: Tensor,
    matrices: Tensor,
    size: int,
    steps: int,
    first: int,
    every: int = 1,
) -> None:
    """Draw points along strands into keys, int64 (images, size * size).

    Args:
        counts: float32 of the same shape, to which every drawn point adds 1.
        nodes: float32 (s, k, 3), rows of a tensor that may have more nodes; fraction: float32
            (s,), the part of each strand that is drawn.
        matrices: float32 (images, 4, 4), see `strands.draw_strands_`.
        steps: points of a strand, at least 2.
        first: the index of the first point.
        every: draw every n-th strand.
    """
    total = -(-len(nodes) // every) * steps
    _strands_kernel[(triton.cdiv(total, _POINTS), len(matrices))](
        keys, keys if counts is None else counts, nodes, fraction, matrices.contiguous(), first,
        total, steps, nodes.shape[1], nodes.stride(0) // 3, every, size,
        COUNT=counts is not None, BLOCK=_POINTS, num_warps=4,
    )  # fmt: skip
