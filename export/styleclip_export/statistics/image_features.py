"""CLIP's image encoder and its preprocessing, on the device of the images."""

from __future__ import annotations

import copy
import functools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from styleclip_networks.clip import (
    CLIP,
    IMAGE_MEAN,
    IMAGE_STD,
    MLP,
    QUICK_GELU_SCALE,
    ResidualAttentionBlock,
)


class ImageFeatures:
    """Encodes images as CLIP does: antialiased bicubic resizing, normalization, image encoder.

    A CUDA graph can capture it after one call for the same size and device.

    Args:
        clip: its image encoder is copied.
        dtype: of the image encoder.
    """

    def __init__(self, clip: CLIP, dtype: torch.dtype = torch.float32) -> None:
        self.dtype = dtype
        self._visual = copy.deepcopy(clip.visual)
        self._visual.conv1 = PatchMatmul(self._visual.conv1)  # type: ignore[assignment]
        for block in self._visual.transformer.resblocks:
            assert isinstance(block, ResidualAttentionBlock)
            block.mlp = FoldedMLP(block.mlp)  # type: ignore[assignment]
        self._visual.to(dtype)

    def __call__(self, images: Tensor) -> Tensor:
        """Encode RGB images (N, 3, r, r) in [-1, 1] as float32 features (N, D), not normalized."""
        resize, scale, shift = _constants(
            images.shape[-1], self._visual.resolution, self.dtype, images.device
        )
        small = resize @ images.to(self.dtype) @ resize.T
        return self._visual((small.clamp(-1, 1) * scale + shift).to(self.dtype)).float()


@functools.lru_cache  # a CUDA graph cannot copy them from the host
def _constants(
    side: int, resolution: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the resize of one dimension as a matrix (resolution, side) of `dtype`, and scale and
    shift, (3, 1, 1) float32, that normalize [-1, 1]."""
    unit = torch.eye(side, device=device)[None, None]
    resize = F.interpolate(unit, size=(resolution, side), mode="bicubic", antialias=True)[0, 0]
    mean, std = (torch.tensor(x, device=device)[:, None, None] for x in (IMAGE_MEAN, IMAGE_STD))
    return resize.to(dtype), 0.5 / std, (0.5 - mean) / std


class PatchMatmul(nn.Module):
    """A convolution whose patches do not overlap, as one matmul.

    That is ten times faster on a GPU in half precision.

    Args:
        conv: without padding and bias, its stride is the size of its filters.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.weight = conv.weight

    def forward(self, x: Tensor) -> Tensor:
        size = self.weight.shape[-1]
        patches = x.unflatten(3, (-1, size)).unflatten(2, (-1, size)).permute(0, 2, 4, 1, 3, 5)
        features = F.linear(patches.flatten(3), self.weight.flatten(1))
        return features.permute(0, 3, 1, 2)


class FoldedMLP(nn.Module):
    """`MLP` with quick GELU's scale a in the weights: x sigmoid(a x) = silu(a x) / a.

    A GPU runs silu as one kernel, and quick GELU as three. The server's `clip_text` folds the scale
    into the layer norm instead.

    Args:
        mlp: its layers are modified.
    """

    @torch.no_grad()
    def __init__(self, mlp: MLP) -> None:
        super().__init__()
        self.c_fc, self.c_proj = mlp.c_fc, mlp.c_proj
        self.c_fc.weight.mul_(QUICK_GELU_SCALE)
        self.c_fc.bias.mul_(QUICK_GELU_SCALE)
        self.c_proj.weight.div_(QUICK_GELU_SCALE)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.silu(self.c_fc(x)))
