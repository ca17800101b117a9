"""FFHQ's face crop (`pipeline.ffhq_crop`) of photos on any device.

It follows what Pillow computes in the same steps; single precision may round a level differently.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from styleclip_contract.wire import FACE_SIZE
from styleclip_server.pipeline.ffhq_crop import CropPlan, Quad, plan_crop

_LANCZOS_LOBES = 3
# Added before values are truncated, as Pillow does, so that no rounding error takes a level off.
_ROUNDING = 1 / 512


@torch.inference_mode()
def crop_quads(photos: Sequence[Tensor], quads: Sequence[Quad], size: int = FACE_SIZE) -> Tensor:
    """Crop one square out of each photo, as `ffhq_crop.crop_quad` does.

    Args:
        photos: (3, H, W) uint8 RGB of any sizes, on one device.

    Returns:
        (N, size, size, 3) uint8 RGB.
    """
    plans = [
        plan_crop((photo.shape[2], photo.shape[1]), quad, size)
        for photo, quad in zip(photos, quads, strict=True)
    ]
    parts = [_cut_part(photo, plan) for photo, plan in zip(photos, plans, strict=True)]
    sizes = np.array([(part.shape[2], part.shape[1]) for part in parts])
    transforms = to_transforms(np.stack([plan.corners for plan in plans]), sizes)
    if parts[0].is_cuda:
        from styleclip_server.engines.cuda.kernels.faces import crop as kernel

        table = list_crops(parts, transforms)
        return kernel.crop(table.to(parts[0].device, non_blocking=True), size)
    return transform_parts(parts, transforms, size)


def transform_parts(parts: Sequence[Tensor], transforms: NDArray[np.float64], size: int) -> Tensor:
    """Transform images (3, H, W) uint8, given `to_transforms`, to (N, size, size, 3) uint8."""
    transform = torch.from_numpy(transforms.astype(np.float32))
    grids = functional.affine_grid(transform, [len(parts), 3, size, size], align_corners=False)
    crops = [
        functional.grid_sample(
            part[None].float(), grid[None], "bilinear", padding_mode="border", align_corners=False
        )
        for part, grid in zip(parts, grids, strict=True)
    ]
    return (torch.cat(crops) + _ROUNDING).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def list_crops(parts: Sequence[Tensor], transforms: NDArray[np.float64]) -> Tensor:
    """Return the table that the kernel reads of images (3, H, W) uint8 and the transforms (N, 2, 3)
    of `to_transforms`: (N, 12) int64."""
    places = np.array([(*part.shape[1:], part.data_ptr(), *part.stride()) for part in parts])
    sizes = places[:, [1, 0]]
    pixels = transforms * (sizes / 2)[:, :, None]
    pixels[:, :, 2] += (sizes - 1) / 2
    return torch.from_numpy(np.concatenate([places, pixels.reshape(-1, 6).view(np.int64)], 1))


def to_transforms(corners: NDArray[np.float64], sizes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the affine transforms (N, 2, 3) of the output's coordinates to those of parts of these
    widths and heights (N, 2), both from -1 to 1, given the corners there (N, 4, 2)."""
    normalized = corners * (2 / sizes)[:, None] - 1
    top_left, bottom_left, bottom_right, top_right = normalized.swapaxes(0, 1)
    across, down = (top_right - top_left) / 2, (bottom_left - top_left) / 2
    return np.stack([across, down, (top_left + bottom_right) / 2], axis=2)


def _cut_part(photo: Tensor, plan: CropPlan) -> Tensor:
    """Return the shrunk and padded part of a photo that is transformed, (3, h, w) uint8."""
    (left, top), (right, bottom) = plan.low.tolist(), plan.high.tolist()
    old, new = (photo.shape[2], photo.shape[1]), plan.shrunk_size
    if new == old:
        part = photo[:, top:bottom, left:right]
    else:
        scale = np.divide(old, new)
        ends = np.minimum(plan.high * scale, old)
        (x, y), (x_end, y_end) = (plan.low * scale).tolist(), ends.tolist()
        part = _resample_columns(photo, x, x_end, right - left)
        part = _resample_columns(part.transpose(1, 2), y, y_end, bottom - top).transpose(1, 2)
    return _pad_with_reflection(part, plan) if plan.is_padded else part


def _resample_columns(image: Tensor, start: float, end: float, count: int) -> Tensor:
    """Resample the columns from `start` to `end` of an image (3, H, W) uint8 to `count` columns by
    Lanczos' filter, as Pillow does."""
    step = (end - start) / count
    stretch = max(step, 1.0)
    centers = start + (np.arange(count) + 0.5) * step
    first = np.maximum((centers - _LANCZOS_LOBES * stretch + 0.5).astype(int), 0)
    last = np.minimum((centers + _LANCZOS_LOBES * stretch + 0.5).astype(int), image.shape[2])
    columns = first[:, None] + np.arange((last - first).max())
    distance = (columns - centers[:, None] + 0.5) / stretch
    filtered = np.sinc(distance) * np.sinc(distance / _LANCZOS_LOBES)
    weights = np.where(columns < last[:, None], filtered, 0.0)
    weights = weights / weights.sum(1, keepdims=True)
    low, high = int(first[0]), int(last[-1])
    inside = np.minimum(columns, high - 1) - low
    matrix = _to_matrix(inside, weights, high - low, image.device)
    blended = image[:, :, low:high].float() @ matrix.T
    return (blended + 0.5).clamp(0, 255).to(torch.uint8)


def _to_matrix(
    columns: NDArray[np.int64], weights: NDArray[np.float64], width: int, device: torch.device
) -> Tensor:
    """Return the matrix (N, width) float32 with weights (N, K) at columns (N, K) of its rows, added
    up where they meet."""
    matrix = torch.zeros(len(columns), width, device=device)
    return matrix.scatter_add_(
        1,
        torch.from_numpy(np.ascontiguousarray(columns)).to(device),
        torch.from_numpy(weights.astype(np.float32)).to(device),
    )


def _pad_with_reflection(part: Tensor, plan: CropPlan) -> Tensor:
    """Pad an image (3, H, W) uint8 as `ffhq_crop` does: the margins are its reflection, blurred
    more and more, and fade to the median color."""
    (left, top), (right, bottom) = plan.before.tolist(), plan.after.tolist()
    device = part.device
    rows, columns = (
        torch.from_numpy(np.pad(np.arange(side), margins, "reflect")).to(device)
        for side, margins in zip(part.shape[1:], ((top, bottom), (left, right)), strict=True)
    )
    pixels = part.index_select(1, rows).index_select(2, columns).float()
    depth_x = _depth(pixels.shape[2], left, right, device)
    depth_y = _depth(pixels.shape[1], top, bottom, device)
    depth = torch.maximum(depth_x, depth_y[:, None])
    blurred = _blur_matrix(pixels.shape[1], plan.blur, device) @ pixels
    blurred = blurred @ _blur_matrix(pixels.shape[2], plan.blur, device).T
    pixels = pixels + (blurred - pixels) * (depth * 3 + 1).clamp(0, 1)
    in_order = pixels.reshape(3, -1).sort(dim=1).values
    middle = in_order.shape[1] // 2
    median = (in_order[:, -middle - 1] + in_order[:, middle]) / 2
    pixels = pixels + (median[:, None, None] - pixels) * depth.clamp(0, 1)
    return pixels.clamp(0, 255).round().to(torch.uint8)


def _depth(side: int, before: int, after: int, device: torch.device) -> Tensor:
    """Return how deep each row or column is in the margins: 1 at the outermost ones, 0 where the
    photo begins, negative inside it (side,)."""
    place = torch.arange(side, dtype=torch.float32, device=device)
    return 1 - torch.minimum(place / before, (side - 1 - place) / after)


def _blur_matrix(side: int, sigma: float, device: torch.device) -> Tensor:
    """Return the matrix (side, side) that blurs by a Gaussian truncated at 4 sigma, mirrored at the
    edges."""
    radius = int(4 * sigma + 0.5)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
    sources = np.pad(np.arange(side), radius, "symmetric")
    columns = np.lib.stride_tricks.sliding_window_view(sources, len(weights))
    rows = np.broadcast_to(weights / weights.sum(), columns.shape)
    return _to_matrix(columns, rows, side, device)
