"""JPEG by the GPU's own encoder (nvJPEG, through torchvision)."""

from __future__ import annotations

from torch import Tensor
from torchvision.io import encode_jpeg


def encode(picture: Tensor, quality: int) -> bytes:
    """RGB (H, W, 3) uint8 on a GPU → a JPEG file without metadata, colour at full resolution.

    quality: 1 to 100.
    """
    data = encode_jpeg(picture.permute(2, 0, 1).contiguous(), quality)
    return bytes(data.cpu().numpy().tobytes())
