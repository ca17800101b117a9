"""The up-sampling convolution as plain convolutions, in the layout that ONNX Runtime's CPU likes.

A stride-2 transposed 3x3 convolution is four convolutions, one for each parity of the output's row
and column, with 4, 2, 2 and 1 of its 9 taps. ONNX Runtime runs plain convolutions in blocks of
channels at nearly the machine's peak, and transposed ones as a matrix product that writes nine
times the input to memory. Rows that belong to one parity are one convolution here, both parities
of the columns beside each other in its channels: with channels last, they are interleaved as they
lie, and only rows need to be moved. Of the taps 12 are multiplied in place of 9.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class _PaddedConv(torch.autograd.Function):
    """A convolution with margins (top, left, bottom, right) of its own: one node of ONNX, where
    torch has a copy with zeros around it first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, margins: list[int], groups: int) -> Tensor:
        top, left, bottom, right = margins
        return F.conv2d(F.pad(x, (left, right, top, bottom)), weight, groups=groups)

    @staticmethod
    def symbolic(g: Any, x: Any, weight: Any, margins: list[int], groups: int) -> Any:
        return g.op("Conv", x, weight, pads_i=margins, group_i=groups)


def _conv(x: Tensor, weight: Tensor, margins: list[int], groups: int = 1) -> Tensor:
    if torch.onnx.is_in_onnx_export():
        return _PaddedConv.apply(x, weight, margins, groups)
    return _PaddedConv.forward(None, x, weight, margins, groups)


def row_parity_weights(weight: Tensor) -> tuple[Tensor, Tensor]:
    """(out, in, 3, 3) of a transposed convolution → filters of its even rows (2 out, in, 2, 2) and
    of its odd rows (2 out, in, 1, 2); of each, the even columns are the first half.

    Row 2i of the output sees rows i - 1 and i of the input by taps 2 and 0, row 2i + 1 sees
    row i by tap 1; columns alike.
    """
    even = weight.flip(3)[..., ::2]  # taps 2, 0 on columns j - 1, j
    odd = F.pad(weight[..., 1:2], (1, 0))  # tap 1 on column j
    both = torch.cat([even, odd])
    return both.flip(2)[:, :, ::2], both[:, :, 1:2]


def upsample_in_phases(x: Tensor, weight: Tensor, blur: Tensor) -> Tensor:
    """Transposed convolution with stride 2, then the blur: (N, in, H, W) → (N, out, 2H, 2W).

    weight (out, in, 3, 3); blur (4, 4), of gain 4.
    """
    out, height, width = (int(n) for n in (weight.shape[0], x.shape[2] + 1, x.shape[3] + 1))
    even, odd = row_parity_weights(weight)
    rows = (_conv(x, even, [1, 1, 1, 1]), _conv(x, odd, [0, 1, 1, 1]))  # (N, 2 out, H + 1, W + 1)
    flat = [part.permute(0, 2, 3, 1).reshape(-1, height, 1, 2 * width * out) for part in rows]
    y = torch.cat(flat, 2).reshape(-1, 2 * height, 2 * width, out).permute(0, 3, 1, 2)
    # The last row and column are zeros: half of the blur's margin is there already.
    return _conv(y, blur.expand(out, 1, 4, 4), [1, 1, 0, 0], out)
