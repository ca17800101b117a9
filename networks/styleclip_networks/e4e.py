"""pSp and e4e: encoders from an aligned face to W+.

Sources: Richardson et al. 2021, "Encoding in Style", section 3 (pSp: w_i = w_avg + h_i); Tov et al.
2021, "Designing an Encoder for StyleGAN Image Manipulation", section 4 and appendix (e4e: w_i =
w_avg + w_0 + delta_i). Layout and parameter names are those of eladrich/pixel2style2pixel and
omertov/encoder4editing (`models/encoders/psp_encoders.py`), so that the `encoder.` part of an
official checkpoint loads with ``strict=True``. The backbone is the IR-SE50 of ArcFace (Deng et al.
2019) with squeeze and excitation (Hu et al. 2018).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from styleclip_contract.wire import W_DIM
from styleclip_networks.stylegan2 import EqualLinear

IR_SE50_WIDTHS = (64, 128, 256, 512)
IR_SE50_DEPTHS = (3, 4, 14, 3)
# Sides in pixels of the feature pyramid's levels, and the first rows of W+ that are predicted from
# the middle and the fine level.
COARSE_SIZE, MIDDLE_SIZE, FINE_SIZE = 16, 32, 64
FIRST_MIDDLE_ROW, FIRST_FINE_ROW = 3, 7
MAP2STYLE_SLOPE = 0.01


def pyramid_size(row: int) -> int:
    """Return the side in pixels of the pyramid level that a row of W+ is predicted from."""
    if row < FIRST_MIDDLE_ROW:
        return COARSE_SIZE
    return MIDDLE_SIZE if row < FIRST_FINE_ROW else FINE_SIZE


class SqueezeExcitation(nn.Module):
    """Scales channels by gates computed from their averages: (N, C, H, W) → (N, C, H, W)."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.fc1 = nn.Conv2d(channels, inner, 1, bias=False)
        self.fc2 = nn.Conv2d(inner, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gate = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.relu(self.fc1(gate))))


class BottleneckIRSE(nn.Module):
    """Residual unit of IR-SE50: (N, in, H, W) → (N, out, H / stride, W / stride)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        if in_channels == out_channels:
            self.shortcut_layer: nn.Module = nn.MaxPool2d(1, stride)
        else:
            self.shortcut_layer = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(in_channels),
            nn.Conv2d(in_channels, out_channels, 3, 1, 1, bias=False),
            nn.PReLU(out_channels),
            nn.Conv2d(out_channels, out_channels, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_channels),
            SqueezeExcitation(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut_layer(x) + self.res_layer(x)


class GradualStyleBlock(nn.Module):
    """map2style head: stride-2 convolutions down to 1x1, then a linear layer.

    (N, in, size, size) → (N, w_dim).
    """

    def __init__(self, in_channels: int, width: int, size: int, w_dim: int) -> None:
        super().__init__()
        convs: list[nn.Module] = []
        for i in range(int(math.log2(size))):
            convs.append(nn.Conv2d(in_channels if i == 0 else width, width, 3, 2, 1))
            convs.append(nn.LeakyReLU(MAP2STYLE_SLOPE))
        self.convs = nn.Sequential(*convs)
        self.linear = EqualLinear(width, w_dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.convs(x).flatten(1).to(self.linear.weight.dtype))


class GradualStyleEncoder(nn.Module):
    """The pSp encoder.

    Args:
        num_latents: rows of W+ (18 for 1024 px, 14 for 256 px).
        widths, depths: channels and units of the four backbone stages.
        style_width: channels of the map2style heads; None means the last of `widths`.
        w_dim: width of W.
    """

    def __init__(
        self,
        num_latents: int = 18,
        widths: Sequence[int] = IR_SE50_WIDTHS,
        depths: Sequence[int] = IR_SE50_DEPTHS,
        style_width: int | None = None,
        w_dim: int = W_DIM,
    ) -> None:
        super().__init__()
        top = widths[-1]
        width = style_width or top
        self.num_latents = num_latents
        self.input_layer = nn.Sequential(
            nn.Conv2d(3, widths[0], 3, 1, 1, bias=False),
            nn.BatchNorm2d(widths[0]),
            nn.PReLU(widths[0]),
        )
        units: list[nn.Module] = []
        channels = widths[0]
        self.stage_ends = []  # index of each stage's last unit
        for stage_width, depth in zip(widths, depths, strict=True):
            for i in range(depth):
                units.append(BottleneckIRSE(channels, stage_width, stride=2 if i == 0 else 1))
                channels = stage_width
            self.stage_ends.append(len(units) - 1)
        self.body = nn.Sequential(*units)
        self.styles = nn.ModuleList(
            GradualStyleBlock(top, width, pyramid_size(row), w_dim) for row in range(num_latents)
        )
        self.latlayer1 = nn.Conv2d(widths[2], top, 1)
        self.latlayer2 = nn.Conv2d(widths[1], top, 1)

    def forward(self, face: Tensor) -> Tensor:
        """Encode aligned faces, RGB in [-1, 1].

        Args:
            face: (N, 3, 256, 256).

        Returns:
            W+ - w_avg, (N, num_latents, w_dim).
        """
        x = self.input_layer(face.to(self.latlayer1.weight.dtype))
        stages = []
        for i, unit in enumerate(self.body):
            x = unit(x)
            if i in self.stage_ends:
                stages.append(x)
        return self.heads(*stages[1:])

    def heads(self, fine_skip: Tensor, middle_skip: Tensor, coarse: Tensor) -> Tensor:
        """Predict W+ - w_avg (N, num_latents, w_dim) from the outputs of the last three stages.

        Args:
            fine_skip, middle_skip, coarse: (N, C, 64, 64), (N, C, 32, 32) and (N, C, 16, 16).
        """
        middle = _upsample_add(coarse, self.latlayer1(middle_skip))
        fine = _upsample_add(middle, self.latlayer2(fine_skip))

        levels = {COARSE_SIZE: coarse, MIDDLE_SIZE: middle, FINE_SIZE: fine}
        rows = [style(levels[pyramid_size(i)]) for i, style in enumerate(self.styles)]
        return torch.stack(self.combine(rows), 1)

    def combine(self, rows: list[Tensor]) -> list[Tensor]:
        """Combine the outputs of the heads, (N, w_dim) each, to the rows of W+ - w_avg."""
        return rows


class Encoder4Editing(GradualStyleEncoder):
    """The e4e encoder, whose heads give w_0 and the differences from it."""

    def combine(self, rows: list[Tensor]) -> list[Tensor]:
        w0 = rows[0]
        return [w0, *(w0 + delta for delta in rows[1:])]


def _upsample_add(coarse: Tensor, lateral: Tensor) -> Tensor:
    """Upsample `coarse` to the size of `lateral` and add both."""
    size = (lateral.shape[2], lateral.shape[3])
    return F.interpolate(coarse, size=size, mode="bilinear", align_corners=True) + lateral
