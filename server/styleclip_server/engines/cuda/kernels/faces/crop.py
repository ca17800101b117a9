"""Affine crops of many images (see `cuda.faces.cropping`)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Of an image: its height, width and address, and the strides of its planes, rows and columns.
PLACE = 6
_BLOCK_PIXELS = 1024


@triton.jit
def _crop_kernel(
    places_ptr, transforms_ptr, out_ptr, stride, SIZE: tl.constexpr, BLOCK_PIXELS: tl.constexpr,
):  # fmt: skip
    """Blend the four pixels around each transformed one, the nearest ones beyond the image's edges,
    and truncate."""
    index = tl.program_id(0)
    pixel = tl.program_id(1) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    mask = pixel < SIZE * SIZE
    place_ptr, transform_ptr = places_ptr + index * stride, transforms_ptr + index * stride
    height, width = tl.load(place_ptr), tl.load(place_ptr + 1)
    image_ptr = tl.load(place_ptr + 2).to(tl.pointer_type(tl.uint8))
    plane, line, step = tl.load(place_ptr + 3), tl.load(place_ptr + 4), tl.load(place_ptr + 5)
    across = ((pixel % SIZE).to(tl.float32) * 2 + 1) / SIZE - 1
    down = ((pixel // SIZE).to(tl.float32) * 2 + 1) / SIZE - 1
    x = tl.load(transform_ptr).to(tl.float32) * across
    x += tl.load(transform_ptr + 1).to(tl.float32) * down
    x += tl.load(transform_ptr + 2).to(tl.float32)
    y = tl.load(transform_ptr + 3).to(tl.float32) * across
    y += tl.load(transform_ptr + 4).to(tl.float32) * down
    y += tl.load(transform_ptr + 5).to(tl.float32)
    x = tl.minimum(tl.maximum(x, 0.0), (width - 1).to(tl.float32))
    y = tl.minimum(tl.maximum(y, 0.0), (height - 1).to(tl.float32))
    left, top = tl.floor(x), tl.floor(y)
    to_right, to_bottom = x - left, y - top
    column, row = left.to(tl.int64), top.to(tl.int64)
    next_column = tl.minimum(column + 1, width - 1) * step
    next_row = tl.minimum(row + 1, height - 1) * line
    column, row = column * step, row * line
    for channel in tl.static_range(3):
        plane_ptr = image_ptr + channel * plane
        upper_left = tl.load(plane_ptr + row + column, mask=mask, other=0).to(tl.float32)
        upper_right = tl.load(plane_ptr + row + next_column, mask=mask, other=0).to(tl.float32)
        lower_left = tl.load(plane_ptr + next_row + column, mask=mask, other=0).to(tl.float32)
        lower_right = tl.load(plane_ptr + next_row + next_column, mask=mask, other=0).to(tl.float32)
        value = upper_left * ((1 - to_right) * (1 - to_bottom))
        value += upper_right * (to_right * (1 - to_bottom))
        value += lower_left * ((1 - to_right) * to_bottom)
        value += lower_right * (to_right * to_bottom)
        # As much more as Pillow's single precision needs, so that no error takes a level off.
        value = (value + 1 / 512).to(tl.int32).to(tl.uint8)
        tl.store(out_ptr + (index * SIZE * SIZE + pixel) * 3 + channel, value, mask=mask)


def crop(table: Tensor, size: int) -> Tensor:
    """Crop N images (3, H, W) uint8 of any sizes and strides.

    Args:
        table: the `PLACE` numbers of each image, and the bits, in double precision, of the affine
            transform (2, 3) from the output, -1 to 1, to the image's pixels: (N, 12) int64.

    Returns:
        (N, size, size, 3) uint8.
    """
    out = torch.empty(len(table), size, size, 3, dtype=torch.uint8, device=table.device)
    transforms = table[:, PLACE:].view(torch.float64)
    _crop_kernel[len(table), triton.cdiv(size * size, _BLOCK_PIXELS)](
        table, transforms, out, table.stride(0), SIZE=size, BLOCK_PIXELS=_BLOCK_PIXELS
    )
    return out
