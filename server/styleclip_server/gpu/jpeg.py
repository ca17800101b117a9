"""What `stylegan2` answers: pictures as JPEG files where those are wanted, else as pixels.

A GPU encodes JPEG itself (nvJPEG, through torchvision), right behind the network.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from styleclip_client import contract, limits
from torch import Tensor

from styleclip_server import images


def answers(
    image: Tensor,
    asked: Collection[str],
    paste: NDArray[np.bool_] | None = None,
    format: NDArray[np.object_] | None = None,
    quality: NDArray[np.int32] | None = None,
) -> dict[str, NDArray[Any]]:
    """The outputs of `contract.TORCH_STYLEGAN2` by name, those that are asked for.

    image: RGB (N, H, W, 3) uint8. The others are a request's inputs (N, 1), None if not sent.
    """
    given = zip(
        image,
        [False] * len(image) if paste is None else paste[:, 0],
        [b"JPEG"] * len(image) if format is None else format[:, 0],
        [95] * len(image) if quality is None else quality[:, 0],
        strict=True,
    )
    answer: dict[str, NDArray[Any]] = {}
    if contract.JPEG.name in asked:
        files = [
            encode(picture, int(quality)) if _wanted(paste, format, quality) else b""
            for picture, paste, format, quality in given
        ]
        answer[contract.JPEG.name] = np.array(files, np.object_)[:, None]
        if all(files):
            answer[contract.UNENCODED.name] = np.zeros((len(image), 1, 1, 3), np.uint8)
    missing = [name for name in asked if name not in answer]
    if missing:
        answer |= dict.fromkeys(missing, on_host(image))
    return {name: answer[name] for name in asked}


def _wanted(paste: bool, format: bytes, quality: int) -> bool:
    """An unknown format or quality is left to `compose`, which refuses it by name."""
    low, high = limits.QUALITY
    return not paste and format.upper() == b"JPEG" and low <= quality <= high


def encode(picture: Tensor, quality: int) -> bytes:
    """RGB (H, W, 3) uint8 → a JPEG file without metadata; quality is 1 to 100.

    On a GPU colour has full resolution; on a CPU it is `images.encode`.
    """
    if picture.device.type == "cpu":
        return images.encode(picture.numpy(), "JPEG", quality)
    from torchvision.io import encode_jpeg

    data = encode_jpeg(picture.permute(2, 0, 1).contiguous(), quality)
    return on_host(data).tobytes()


def on_host(data: Tensor) -> NDArray[Any]:
    """`data` in the processor's memory: page-locked, which a GPU copies to without a detour."""
    if data.device.type != "cpu":
        # PyTorch keeps such memory when it is freed: it is locked once.
        data = torch.empty(data.shape, dtype=data.dtype, pin_memory=True).copy_(data)
    return data.contiguous().numpy()
