"""Backgrounds: plain walls, gradients, and rooms, streets and gardens out of focus."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.head import Background, Color
from domains.people.noise import Noise

_SMALL = 128  # pixels of pictures before they are out of focus


def blur(images: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Blur images (n, c, h, w), each by a Gaussian of its own sigma in pixels."""
    n, channels, height, width = images.shape
    radius = max(1, min(math.ceil(2.5 * max(sigmas)), height - 1, width - 1))
    x = torch.arange(-radius, radius + 1)
    sigma = torch.tensor(sigmas)[:, None]
    kernel = torch.exp(-0.5 * (x / sigma) ** 2) * (x.abs() <= (2.5 * sigma).ceil().clamp(min=1))
    kernel = (kernel / kernel.sum(1, keepdim=True)).to(images.device)
    kernel = kernel.repeat_interleave(channels, 0)[:, None, None]
    planes = images.reshape(1, n * channels, height, width)
    padded = F.pad(planes, (radius, radius, radius, radius), mode="replicate")
    rows = F.conv2d(padded, kernel, groups=n * channels)
    return F.conv2d(rows, kernel.transpose(2, 3), groups=n * channels).view(images.shape)


@dataclass
class _Disc:
    """A light out of focus: where, its radius, and its color."""

    x: float
    y: float
    radius: float
    color: Color


class _Sketch:
    """What the host draws of a background: a small picture, or the parameters of a plain one."""

    def __init__(self, background: Background, seed: int, noise: Noise) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._palette = torch.tensor(background.colors)
        self.plain = background.kind in ("plain", "gradient")
        self.discs: list[_Disc] = []
        if self.plain:
            a = self._uniform(0, 2 * math.pi)
            glow = self._uniform(-0.8, 0.8), self._uniform(-0.5, 0.5)
            colors = background.colors[0], background.colors[1]
            slope = 1.0 if background.kind == "gradient" else 0.12
            self.numbers = (
                math.cos(a) / 1.3, math.sin(a) / 1.3, slope, *glow, self._uniform(0, 1),
                *colors[0], *colors[1],
            )  # fmt: skip
        else:
            self.picture = self._draw(background.kind, noise)
            self.sigma = self._uniform(3.5, 9.0)
            count = int(self._uniform(0, 14)) if self._uniform(0, 1) < 0.5 else 0
            radius = self._uniform(0.03, 0.10)
            self.discs = [self._draw_disc(radius) for _ in range(count)]

    def _uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(torch.rand((), generator=self._generator))

    def _draw(self, kind: str, noise: Noise) -> Tensor:
        """Draw a picture (3, _SMALL, _SMALL) in focus."""
        axis = torch.linspace(-1, 1, _SMALL)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        horizon = self._uniform(-0.1, 0.6)
        palette = self._palette
        image = torch.where(y < horizon, palette[0, :, None, None], palette[1, :, None, None])
        inside = {"indoors": self._box, "street": self._house}.get(kind, self._leaf(noise))
        for _ in range(int(self._uniform(8, 26))):
            color = palette[int(self._uniform(0, len(palette) - 1e-3))] * self._uniform(0.35, 1.6)
            place = (
                self._uniform(-1.1, 1.1), self._uniform(-1.0, 1.0), self._uniform(0.04, 0.5),
                self._uniform(0.05, 0.8),
            )  # fmt: skip
            image = torch.where(inside(x, y, place, horizon), color[:, None, None], image)
        return image

    @staticmethod
    def _box(x: Tensor, y: Tensor, place: tuple[float, ...], _: float) -> Tensor:
        cx, cy, w, h = place
        return ((x - cx).abs() < w) & ((y - cy).abs() < h)

    @staticmethod
    def _house(x: Tensor, y: Tensor, place: tuple[float, ...], horizon: float) -> Tensor:
        cx, cy, w, h = place
        return ((x - cx).abs() < w * 0.7) & (y > cy - h) & (y < horizon + 0.2)

    @staticmethod
    def _leaf(noise: Noise) -> Callable[[Tensor, Tensor, tuple[float, ...], float], Tensor]:
        def inside(x: Tensor, y: Tensor, place: tuple[float, ...], _: float) -> Tensor:
            cx, cy, w, _h = place
            points = torch.stack([x + cx, y], -1).reshape(-1, 2) * 0.3
            wobble = noise(points, 1.0, [0]).view(_SMALL, _SMALL)
            return ((x - cx) / w) ** 2 + ((y - cy) / w) ** 2 < 1 + 0.6 * wobble

        return inside

    def _draw_disc(self, radius: float) -> _Disc:
        x, y = self._uniform(-1, 1), self._uniform(-1, 0.6)
        warm = 1.0, self._uniform(0.6, 0.95), self._uniform(0.3, 0.9)
        power = self._uniform(0.1, 0.5)
        return _Disc(x, y, radius, (warm[0] * power, warm[1] * power, warm[2] * power))


class Backgrounds:
    """Draws backgrounds on a device."""

    def __init__(self, noise: Noise) -> None:
        self._noise, self._device = noise, noise.textures.device
        self._host_noise = noise.on_host()

    def draw(self, backgrounds: Sequence[Background], seeds: Sequence[int], size: int) -> Tensor:
        """Draw backgrounds, linear RGB (n, 3, size, size), mean about that of the colors."""
        pairs = zip(backgrounds, seeds, strict=True)
        sketches = [_Sketch(background, seed, self._host_noise) for background, seed in pairs]
        plain = [k for k, sketch in enumerate(sketches) if sketch.plain]
        pictured = [k for k, sketch in enumerate(sketches) if not sketch.plain]
        images: dict[int, Tensor] = {}
        if plain:
            images |= zip(plain, self._draw_plain([sketches[k] for k in plain], size), strict=True)
        if pictured:
            some = [sketches[k] for k in pictured]
            images |= zip(pictured, self._draw_pictures(some, size), strict=True)
        return torch.stack([images[k] for k in range(len(sketches))]).clamp(0.002, 4)

    def _axes(self, size: int) -> tuple[Tensor, Tensor]:
        axis = torch.linspace(-1, 1, size, device=self._device)
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        return x, y

    def _draw_plain(self, sketches: Sequence[_Sketch], size: int) -> Tensor:
        x, y = self._axes(size)
        numbers = torch.tensor([sketch.numbers for sketch in sketches], device=self._device)
        along_x, along_y, slope, glow_x, glow_y, shift, *colors = numbers.T[..., None, None]
        ramp = 0.5 + 0.5 * (x * along_x + y * along_y)
        amount = (slope * ramp)[:, None]
        first, second = torch.stack(colors[:3], 1), torch.stack(colors[3:], 1)
        image = first * (1 - amount) + second * amount
        glow = torch.exp(-((x - glow_x) ** 2 + (y - glow_y) ** 2) / 0.9)[:, None]
        place = torch.stack([x, y], -1) * 0.12 + shift[..., None]
        grain = self._noise(place.reshape(-1, 2), 1.0, [0])[:, 0].view(-1, 1, size, size)
        return image * (0.80 + 0.35 * glow) * (1 + 0.025 * grain)

    def _draw_pictures(self, sketches: Sequence[_Sketch], size: int) -> Tensor:
        small = torch.stack([sketch.picture for sketch in sketches]).to(self._device)
        small = blur(small, [sketch.sigma for sketch in sketches])
        image = F.interpolate(small, size=(size, size), mode="bicubic", align_corners=False)
        x, y = self._axes(size)
        for number in range(max(len(sketch.discs) for sketch in sketches)):
            none = _Disc(9.0, 9.0, 0.0, (0.0, 0.0, 0.0))
            discs = [(sketch.discs[number:] or [none])[0] for sketch in sketches]
            rows = [(disc.x, disc.y, disc.radius, *disc.color) for disc in discs]
            cx, cy, radius, *color = torch.tensor(rows, device=self._device).T[..., None, None]
            inside = torch.sigmoid((radius - torch.hypot(x - cx, y - cy)) * 90)
            image = image + inside[:, None] * torch.stack(color, 1)
        return image
