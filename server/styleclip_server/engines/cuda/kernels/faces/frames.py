"""Photos of many sizes in the frames that CUDA graphs need (see `cuda.faces.frames`)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PLACE = 3  # of a photo: its height, width and address
_BLOCK_COLUMNS = 1024


@triton.jit(do_not_specialize=["side"])
def _draw_kernel(places_ptr, out_ptr, side, PLACE: tl.constexpr, BLOCK_COLUMNS: tl.constexpr):
    """Copy a row of a plane of a photo."""
    row, plane, photo = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    place_ptr = places_ptr + photo * PLACE
    height, width = tl.load(place_ptr), tl.load(place_ptr + 1)
    if row < height:
        photo_ptr = tl.load(place_ptr + 2).to(tl.pointer_type(tl.uint8))
        row_ptr = photo_ptr + (plane * height + row) * width
        out_row_ptr = out_ptr + ((photo * 3 + plane) * side + row) * side
        for start in range(0, width, BLOCK_COLUMNS):
            column = start + tl.arange(0, BLOCK_COLUMNS)
            pixels = tl.load(row_ptr + column, mask=column < width, other=0)
            tl.store(out_row_ptr + column, pixels, mask=column < width)


def draw_photos(places: Tensor, side: int) -> Tensor:
    """Draw photos, contiguous (3, H, W) uint8, into the upper left corners of frames.

    Args:
        places: the `PLACE` numbers of each photo, 0 for none (N, 3) int64.

    Returns:
        (N, 3, side, side) uint8, without values where there is no photo.
    """
    out = torch.empty(len(places), 3, side, side, dtype=torch.uint8, device=places.device)
    _draw_kernel[side, 3, len(places)](places, out, side, PLACE=PLACE, BLOCK_COLUMNS=_BLOCK_COLUMNS)
    return out
