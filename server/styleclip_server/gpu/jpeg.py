"""JPEG by the GPU's own encoder (nvJPEG, through torchvision)."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.io import encode_jpeg


def prepare(device: int) -> None:
    """Loads the encoder on that GPU, so that no request waits for it."""
    torch.cuda.set_device(device)
    encode(np.zeros((64, 64, 3), np.uint8), 95)


def encode(picture: NDArray[np.uint8], quality: int) -> bytes:
    """RGB (H, W, 3) uint8 → a JPEG file without metadata, colour at full resolution.

    quality: 1 to 100.
    """
    pixels = torch.from_numpy(np.require(picture, requirements=("C", "W"))).cuda()
    data = encode_jpeg(pixels.permute(2, 0, 1).contiguous(), quality)
    return bytes(data.cpu().numpy().tobytes())
