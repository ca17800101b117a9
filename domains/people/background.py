"""Backgrounds: plain walls, gradients, and rooms, streets and gardens out of focus."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.materials import Noise


def blur(image: Tensor, sigma: float) -> Tensor:
    """Blur images (n, c, h, w) by a Gaussian of `sigma` pixels."""
    radius = max(1, min(math.ceil(2.5 * sigma), image.shape[-1] - 1))
    x = torch.arange(-radius, radius + 1, device=image.device, dtype=image.dtype)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel / kernel.sum()).repeat(image.shape[1], 1, 1, 1)
    padded = F.pad(image, (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(padded, kernel, groups=image.shape[1])
    return F.conv2d(rows, kernel.transpose(2, 3), groups=image.shape[1])


def draw_background(
    kind: str, colors: list[tuple[float, float, float]], size: int, seed: int, noise: Noise
) -> Tensor:
    """Draw a background, linear RGB (3, size, size), mean about that of the colors."""
    device = noise.textures.device
    generator = torch.Generator().manual_seed(seed)
    palette = torch.tensor(colors, device=device)

    def uniform(low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=generator))

    axis = torch.linspace(-1, 1, size, device=device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    if kind in ("plain", "gradient"):
        a = uniform(0, 2 * math.pi)
        ramp = 0.5 + 0.5 * (x * math.cos(a) + y * math.sin(a)) / 1.3
        amount = ramp if kind == "gradient" else 0.12 * ramp
        image = palette[0, :, None, None] * (1 - amount) + palette[1, :, None, None] * amount
        glow = torch.exp(-((x - uniform(-0.8, 0.8)) ** 2 + (y - uniform(-0.5, 0.5)) ** 2) / 0.9)
        image = image * (0.80 + 0.35 * glow)
        place = torch.stack([x, y], -1).reshape(-1, 2) * 0.12 + uniform(0, 1)
        image = image * (1 + 0.025 * noise(place, 1.0, [0])[:, 0].view(size, size))
        return image.clamp(0.002, 4)
    small = 128
    axis = torch.linspace(-1, 1, small, device=device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    horizon = uniform(-0.1, 0.6)
    image = torch.where(y < horizon, palette[0, :, None, None], palette[1, :, None, None]).clone()
    for _ in range(int(uniform(8, 26))):
        color = palette[int(uniform(0, len(palette) - 1e-3))] * uniform(0.35, 1.6)
        cx, cy, w, h = (
            uniform(-1.1, 1.1),
            uniform(-1.0, 1.0),
            uniform(0.04, 0.5),
            uniform(0.05, 0.8),
        )
        if kind == "indoors":
            inside = ((x - cx).abs() < w) & ((y - cy).abs() < h)
        elif kind == "street":
            inside = ((x - cx).abs() < w * 0.7) & (y > cy - h) & (y < horizon + 0.2)
        else:  # leaves
            wobble = noise(torch.stack([x + cx, y], -1).reshape(-1, 2) * 0.3, 1.0, [0]).view(
                small, small
            )
            inside = ((x - cx) / w) ** 2 + ((y - cy) / w) ** 2 < 1 + 0.6 * wobble
        image = torch.where(inside, color[:, None, None], image)
    image = blur(image[None], uniform(3.5, 9.0))
    image = F.interpolate(image, size=(size, size), mode="bicubic", align_corners=False)[0]
    lights = int(uniform(0, 14)) if uniform(0, 1) < 0.5 else 0
    axis = torch.linspace(-1, 1, size, device=device)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    radius = uniform(0.03, 0.10)
    for _ in range(lights):
        cx, cy = uniform(-1, 1), uniform(-1, 0.6)
        disc = torch.sigmoid((radius - torch.hypot(x - cx, y - cy)) * 90)
        warm = torch.tensor([1.0, uniform(0.6, 0.95), uniform(0.3, 0.9)], device=device)
        image = image + disc * warm[:, None, None] * uniform(0.1, 0.5)
    return image.clamp(0.002, 4)
