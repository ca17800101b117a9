"""StyleFeatureEditor as ONNX Runtime computes it fastest on a CPU (see `onnx_variants`).

The feature editor is nearly all 3x3 convolutions of 512 channels at 64 px, by Winograd's filtering.
Between them features stay in its layout, (N, HW, C), where a norm is one multiplication and one
addition, and the norm after a convolution is folded into its filters.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from styleclip_export.convert.feature_wrappers import FeatureFunctions, encode
from styleclip_export.convert.onnx_variants import (
    suits_winograd,
    synthesis,
    synthesized_features,
    to_image,
    to_pixels,
    winograd,
)
from styleclip_networks.sfe import FeatureFuserUnit


def fuse(body: nn.Sequential, features: Tensor) -> Tensor:
    """Compute `FeatureFuser.body`: (N, C, r, r) → (N, C, r, r)."""
    size = int(features.shape[2]), int(features.shape[3])
    units = [unit for unit in body if isinstance(unit, FeatureFuserUnit)]
    if not all(suits_winograd(_convolution(unit, 1).weight, size) for unit in units):
        result: Tensor = body(features)
        return result
    x = to_pixels(features)
    for unit in units:
        before, between, after = (_scale_and_shift(unit.body[i]) for i in (0, 2, 5))
        y = x * before[0] + before[1]
        y = winograd(y, _scaled(_convolution(unit, 1), between[0]), size) + between[1]
        slope: Tensor = unit.body[3].weight  # type: ignore[assignment]
        y = torch.relu(y) * (1 - slope) + y * slope
        x = x + winograd(y, _scaled(_convolution(unit, 4), after[0]), size) + after[1]
    return to_image(x, size)


def _convolution(unit: FeatureFuserUnit, index: int) -> nn.Conv2d:
    layer = unit.body[index]
    assert isinstance(layer, nn.Conv2d)
    return layer


def _scaled(convolution: nn.Conv2d, scale: Tensor) -> Tensor:
    """Return the filters of a convolution whose output channels are multiplied by `scale`."""
    return convolution.weight * scale[:, None, None, None]


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return what a batch norm multiplies its channels by, and what it adds then."""
    assert isinstance(norm, nn.BatchNorm2d)
    assert norm.running_var is not None and norm.running_mean is not None
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    return scale, norm.bias - norm.running_mean * scale


ONNXRUNTIME = FeatureFunctions(encode, synthesized_features, fuse, synthesis)
