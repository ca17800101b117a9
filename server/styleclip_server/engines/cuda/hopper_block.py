"""The generator's last block on a Hopper GPU: each convolution is one kernel with its epilogue.

Import it only where `kernels.hopper.is_available`: the kernels need one release of Triton.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from styleclip_server.engines.cuda.kernels.hopper.last_convolution import (
    convolve_to_rgb,
    pack_last_filters,
)
from styleclip_server.engines.cuda.kernels.hopper.up_convolution import (
    IN_CHANNELS,
    OUT_CHANNELS,
    pack_up_filters,
    upsample_convolve,
)
from styleclip_server.engines.cuda.kernels.stylegan2.epilogue import EpilogueParams, ToRGBParams
from styleclip_server.engines.cuda.kernels.stylegan2.modulation import BatchStyles

UP_FILTERS_SHAPE = OUT_CHANNELS, IN_CHANNELS, 3, 3  # the only ones that the kernels are written for


@dataclass(frozen=True)
class PackedLayer:
    """A convolution and its epilogue, as one kernel takes them.

    Attributes:
        style_start: where the layer's style begins in S.
        filters: float16, packed for the kernel.
    """

    style_start: int
    filters: Tensor
    epilogue: EpilogueParams


@dataclass(frozen=True)
class HopperBlock:
    """The last block; called as `stylegan2.SynthesisBlock`."""

    up: PackedLayer
    conv: PackedLayer
    to_rgb: ToRGBParams

    @property
    def style_start(self) -> int:
        return self.up.style_start

    def __call__(
        self,
        x: Tensor,
        skip: Tensor | None,
        styles: BatchStyles,
        next_style: Tensor | None,
        image_dtype: torch.dtype,
    ) -> tuple[None, Tensor]:
        """Run the last block and return (None, RGB)."""
        assert skip is not None and next_style is None
        conv_style = styles.normalized[:, self.conv.style_start :]
        features = upsample_convolve(
            x, self.up.filters, self.up.epilogue, styles.dcoefs, conv_style
        )
        rgb = convolve_to_rgb(
            features, self.conv.filters, self.conv.epilogue, self.to_rgb, styles.dcoefs,
            styles.raw, skip, image_dtype,
        )  # fmt: skip
        return None, rgb


def pack_up_layer(style_start: int, weight: Tensor, epilogue: EpilogueParams) -> PackedLayer:
    """Pack the upsampling layer; `weight` is (out, in, 3, 3) float32."""
    return PackedLayer(style_start, pack_up_filters(weight).half(), epilogue)


def pack_last_layer(style_start: int, weight: Tensor, epilogue: EpilogueParams) -> PackedLayer:
    """Pack the last layer; `weight` is (out, in, 3, 3) float32."""
    return PackedLayer(style_start, pack_last_filters(weight).half(), epilogue)
