"""Noise textures, for what is uneven on skin, cloth and walls."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn import functional as F


class Noise:
    """Tileable noise: 0 and 1 clouds, 2 grain, 3 pores; 4 to 7 the slopes of the last two."""

    SIZE = 512

    def __init__(self, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(7)
        n = self.SIZE
        f = torch.fft.fftfreq(n) * n
        radius = torch.hypot(f[:, None], f[None]).clamp(min=1.0)
        clouds = radius**-1.4 * (radius < 90)
        grain = torch.exp(-(((radius - 70) / 45) ** 2))
        pores = torch.exp(-(((radius - 55) / 22) ** 2))
        layers = []
        for spectrum in (clouds, clouds, grain, pores):
            white = torch.fft.fft2(torch.randn(n, n, generator=generator))
            layer = torch.fft.ifft2(white * spectrum).real
            layers.append(layer / layer.std())
        layers[3] = -torch.relu(-layers[3] - 0.6)  # pits only
        layers[3] = layers[3] / layers[3].std()
        for layer in (layers[2], layers[3]):
            layers.append((layer.roll(-1, 1) - layer.roll(1, 1)) / 2)
            layers.append((layer.roll(-1, 0) - layer.roll(1, 0)) / 2)
        self.textures = F.pad(torch.stack(layers)[None], (1, 1, 1, 1), mode="circular").to(device)

    def on_host(self) -> Noise:
        """Return the same noise on the host."""
        host = copy.copy(self)
        host.textures = self.textures.cpu()
        return host

    def __call__(self, uv: Tensor, scale: float, channels: list[int]) -> Tensor:
        """Sample channels at texture coordinates (p, 2) times `scale`: (p, channels)."""
        grid = torch.frac(torch.frac(uv * scale) + 1) * 2 - 1
        grid = grid * self.SIZE / (self.SIZE + 2)
        textures = self.textures[:, channels]
        sampled = F.grid_sample(textures, grid[None, None], align_corners=False)
        return sampled[0, :, 0].T
