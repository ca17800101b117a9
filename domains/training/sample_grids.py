"""Sheets of images that a training draws, and how close images are to their targets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor


def format_psnr(images: Tensor, targets: Tensor) -> str:
    """Format mean, median and minimum PSNR in dB of images (N, 3, H, W) in [-1, 1]."""
    error = (images.clamp(-1, 1) - targets).square().mean((1, 2, 3)).clamp(min=1e-9)
    values = 10 * (4 / error).log10()
    return f"mean {values.mean():.1f} dB, median {values.median():.1f} dB, min {values.min():.1f}"


def save_grid(images: Tensor, columns: int, path: Path) -> None:
    """Save images (N, 3, H, W) in [-1, 1] as one JPEG, row by row."""
    n, _, height, width = images.shape
    rows = math.ceil(n / columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    for i, image in enumerate(pixels.cpu().numpy()):
        y, x = i // columns * height, i % columns * width
        sheet[y : y + height, x : x + width] = image
    Image.fromarray(sheet).save(path, quality=88)
