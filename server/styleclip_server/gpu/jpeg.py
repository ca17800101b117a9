"""JPEG by the GPU's own encoder (nvJPEG, through torchvision)."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.io import encode_jpeg


def encode(picture: Tensor, quality: int) -> bytes:
    """RGB (H, W, 3) uint8 on a GPU → a JPEG file without metadata, colour at full resolution.

    quality: 1 to 100.
    """
    data = encode_jpeg(picture.permute(2, 0, 1).contiguous(), quality)
    return bytes(data.cpu().numpy().tobytes())


def prepare(device: int) -> None:
    """Loads the encoder on that GPU, so that no request waits for it."""
    torch.cuda.set_device(device)
    encode(torch.zeros(64, 64, 3, dtype=torch.uint8, device="cuda"), 95)
