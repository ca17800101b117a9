"""CLIP's image encoder and its preprocessing, on the device of the images."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks.clip import CLIP, IMAGE_MEAN, IMAGE_STD, MLP, QUICK_GELU_SCALE


def image_encoder(clip: CLIP, dtype: torch.dtype = torch.float32) -> Callable[[Tensor], Tensor]:
    """Returns a function from images (N, 3, H, W), RGB in [-1, 1], to features (N, D).

    It resizes with CLIP's own preprocessing, bicubic with antialiasing, and normalizes.

    Args:
        clip: is copied.
        dtype: of the image encoder.
    """
    size = clip.visual.resolution
    visual = copy.deepcopy(clip.visual)
    for module in visual.modules():
        if isinstance(module, MLP):
            fold_quick_gelu(module)
    visual.to(dtype)

    @functools.lru_cache
    def constants(side: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """The resize of one dimension as a matrix (size, side), and scale and shift that normalize
        [-1, 1]. They are cached, since a CUDA graph cannot copy them from the host."""
        unit = torch.eye(side, device=device)[None, None]
        resize = F.interpolate(unit, size=(size, side), mode="bicubic", antialias=True)[0, 0]
        mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (IMAGE_MEAN, IMAGE_STD))
        return resize.to(dtype), 0.5 / std, (0.5 - mean) / std

    def encode(images: Tensor) -> Tensor:
        resize, scale, shift = constants(images.shape[-1], images.device)
        small = resize @ images.to(dtype) @ resize.T
        return visual((small.clamp(-1, 1) * scale + shift).to(dtype)).float()

    return encode


@torch.no_grad()
def fold_quick_gelu(mlp: MLP) -> None:
    """Moves quick GELU's scale a into the weights, so that a GPU runs one kernel instead of three:
    x sigmoid(a x) = silu(a x) / a."""
    mlp.c_fc.weight.mul_(QUICK_GELU_SCALE)
    mlp.c_fc.bias.mul_(QUICK_GELU_SCALE)
    mlp.c_proj.weight.div_(QUICK_GELU_SCALE)
    mlp.activation = F.silu
