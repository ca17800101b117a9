"""dlib's bilinear resizing, the same to the bit (see `cuda.faces.resizing`)."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK_COLUMNS = 256


@triton.jit(
    do_not_specialize=[
        "old_height", "old_width", "height", "width", "rows_stride", "columns_stride",
        "singles_stride", "planes",
    ],
    do_not_specialize_on_alignment=["singles_ptr"],
)  # fmt: skip
def _resize_kernel(
    image_ptr, out_ptr, rows_ptr, next_rows_ptr, down_ptr, left_ptr, right_ptr, fraction_ptr,
    singles_ptr, old_height, old_width, height, width, rows_stride, columns_stride, singles_stride,
    planes, BLOCK_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Blend four pixels by their distances, in single precision for the first columns and in double
    precision for the others, and truncate. `planes` planes have the same rows and columns."""
    row, plan = tl.program_id(0), tl.program_id(2).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    mask = columns < width
    in_rows, in_columns = plan * rows_stride + row, plan * columns_stride + columns
    upper, lower = tl.load(rows_ptr + in_rows), tl.load(next_rows_ptr + in_rows)
    left = tl.load(left_ptr + in_columns, mask=mask, other=0)
    right = tl.load(right_ptr + in_columns, mask=mask, other=0)
    singles = tl.load(singles_ptr + plan * singles_stride)
    down = tl.load(down_ptr + in_rows)
    up = 1.0 - down
    fraction = tl.load(fraction_ptr + in_columns, mask=mask, other=0.0)
    near_up, near_down, to_right = up.to(tl.float32), down.to(tl.float32), fraction.to(tl.float32)
    to_left = 1.0 - to_right
    for index in range(planes):
        plane = plan * planes + index
        upper_ptr = image_ptr + (plane * old_height + upper) * old_width
        lower_ptr = image_ptr + (plane * old_height + lower) * old_width
        upper_left = tl.load(upper_ptr + left, mask=mask, other=0).to(tl.float32)
        upper_right = tl.load(upper_ptr + right, mask=mask, other=0).to(tl.float32)
        lower_left = tl.load(lower_ptr + left, mask=mask, other=0).to(tl.float32)
        lower_right = tl.load(lower_ptr + right, mask=mask, other=0).to(tl.float32)
        v = (near_up * to_left) * upper_left + (near_up * to_right) * upper_right
        v = v + (near_down * to_left) * lower_left
        v = v + (near_down * to_right) * lower_right
        blended = v.to(tl.int32)
        if (tl.program_id(1) + 1) * BLOCK_COLUMNS > singles:
            above = (1.0 - fraction) * upper_left.to(tl.float64)
            above = above + fraction * upper_right.to(tl.float64)
            below = (1.0 - fraction) * lower_left.to(tl.float64)
            below = below + fraction * lower_right.to(tl.float64)
            exact = up * above + down * below
            blended = tl.where(columns < singles, blended, exact.to(tl.int32))
        out_ptrs = out_ptr + (plane * height + row) * width + columns
        tl.store(out_ptrs, blended.to(tl.uint8), mask=mask)


def resize(
    image: Tensor,
    rows: tuple[Tensor, Tensor, Tensor],
    columns: tuple[Tensor, Tensor, Tensor],
    singles: Tensor,
) -> Tensor:
    """Blend two rows and two columns of pixels into each new one.

    Args:
        image: (..., H, W) uint8, or (P, C, H, W) for rows and columns of P images each.
        rows, columns: the first and the second one to blend (N,) or (P, N) int32, and the weight of
            the second, float64; those of P images with the same strides.
        singles: how many columns are blended in single precision, () or (P,) int32.

    Returns:
        (..., rows, columns) uint8.
    """
    old_height, old_width = image.shape[-2:]
    height, width = rows[0].shape[-1], columns[0].shape[-1]
    out = torch.empty(*image.shape[:-2], height, width, dtype=torch.uint8, device=image.device)
    planes = image.numel() // (old_height * old_width)
    grid = (height, triton.cdiv(width, _BLOCK_COLUMNS), singles.numel())
    _resize_kernel[grid](
        image.contiguous(), out, *rows, *columns, singles, old_height, old_width, height, width,
        rows[0].stride(0), columns[0].stride(0), singles.stride(0) if singles.dim() else 0,
        planes // singles.numel(),
        BLOCK_COLUMNS=_BLOCK_COLUMNS,
        enable_fp_fusion=False,  # dlib's products are rounded before they are added
    )  # fmt: skip
    return out
