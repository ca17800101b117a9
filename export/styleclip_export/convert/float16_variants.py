"""The networks in float16, for GPUs.

StyleGAN2: the affine layers, demodulation coefficients and RGB stay float32, features are float16
(`ModulatedConv`). e4e: convolutions and norms are float16, the linear layers that end in W+
float32. CLIP's text encoder is float16 throughout.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import GradualStyleEncoder
from styleclip_networks.stylegan2 import EqualLinear, Generator

# Parts of the names of weights that are used, and stored, as float32.
FLOAT32_WEIGHTS = (".modulation.", ".linear.", "w_avg")

_NO_EPS = 1e-12  # PyTorch 2.11 refuses 0; added to a variance of 1, it changes no bit of a float32


def is_float16(name: str) -> bool:
    """Return whether the weight `name` is used as float16."""
    return not any(part in name for part in FLOAT32_WEIGHTS)


def synthesis(generator: Generator, styles: Sequence[Tensor]) -> Tensor:
    """Compute `Generator.synthesis` with features in float16."""
    return generator.synthesis(styles, torch.float16)


@torch.no_grad()
def float16_encoder(encoder: GradualStyleEncoder) -> GradualStyleEncoder:
    """Copy `encoder` in float16, except the last linear layers.

    Batch norms are reduced to scale and shift in float32 first, since a variance may be too small
    or too large for float16.
    """
    copied = copy.deepcopy(encoder).eval()
    for module in copied.modules():
        if isinstance(module, nn.BatchNorm2d):
            mean, variance = module.running_mean, module.running_var
            assert mean is not None and variance is not None
            module.weight.mul_(torch.rsqrt(variance + module.eps))
            module.bias.sub_(mean * module.weight)
            mean.zero_()
            variance.fill_(1)
            module.eps = _NO_EPS
    copied.half()
    for module in copied.modules():
        if isinstance(module, EqualLinear):
            module.float()
    # `half` has rounded the linear layers' weights: restore them.
    for head, original in zip(copied.styles, encoder.styles, strict=True):
        head.linear.load_state_dict(original.linear.state_dict())  # type: ignore[union-attr]
    return copied


def float16_clip(clip: CLIP) -> CLIP:
    """Copy `clip` in float16."""
    return copy.deepcopy(clip).half()
