"""Augmentations of training images, float32 (N, 3, H, W), RGB in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


@torch.no_grad()
def augment_as_uploads(images: Tensor) -> Tensor:
    """Shift, scale, tint, blur and add noise as in users' uploads; a quarter stays unchanged."""
    n, device = len(images), images.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, device=device) * (high - low) + low

    color = torch.rand(n, 3, 1, 1, device=device) * 2 - 1
    # Multiplying keeps the dark lines; good enough for pale backgrounds.
    tint = torch.where(uniform(0, 1) < 0.2, 1 - 0.25 * (color + 1) / 2, torch.ones_like(color))
    tinted = ((images + 1) / 2 * tint) * 2 - 1

    scale = 1 + 0.06 * torch.randn(n, device=device).clamp(-2, 2)
    shift = 0.04 * torch.randn(n, 2, device=device).clamp(-2, 2)
    theta = torch.zeros(n, 2, 3, device=device)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    result = F.grid_sample(tinted, grid, padding_mode="border", align_corners=False)

    half = F.interpolate(result, scale_factor=0.5, mode="area")
    blurred = F.interpolate(half, scale_factor=2.0, mode="bilinear")
    result = torch.lerp(result, blurred, (uniform(0, 1) < 0.25).float())
    result = result * uniform(0.9, 1.08) + uniform(-0.06, 0.06)
    result = result + torch.randn_like(result) * uniform(0, 0.06)
    unchanged = (uniform(0, 1) < 0.25).float()
    return torch.lerp(result, images, unchanged).clamp(-1, 1)


def augment_lightly(images: Tensor) -> Tensor:
    """Add a little noise and brightness, so that CLIP does not depend on exact pixels."""
    n, device = len(images), images.device
    images = images + torch.randn_like(images) * 0.04 * torch.rand(n, 1, 1, 1, device=device)
    gain = 1 + 0.1 * (torch.rand(n, 1, 1, 1, device=device) - 0.5)
    return images * gain
