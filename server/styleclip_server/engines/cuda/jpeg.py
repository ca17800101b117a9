"""JPEG files of the generator's images, encoded on the GPU (nvJPEG, through torchvision)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from styleclip_contract import jpeg_tensor, limits, wire
from styleclip_server.pipeline import images

File = NDArray[np.uint8]


def requested_quality(
    rows: int,
    paste: NDArray[np.bool_] | None = None,
    format: NDArray[np.object_] | None = None,
    quality: NDArray[np.int32] | None = None,
) -> int | None:
    """Return the quality of the JPEG file that a request gets; None: it gets pixels.

    A request of several rows gets pixels. So does one with an unknown format or quality: `compose`
    refuses it by name.

    Args:
        paste, format, quality: the request's inputs (1, 1); None where it was sent without.
    """
    if rows != 1 or (paste is not None and paste.item()):
        return None
    if format is not None and format.item().upper() != limits.DEFAULT_FORMAT.encode():
        return None
    low, high = limits.QUALITY
    level = limits.DEFAULT_QUALITY if quality is None else int(quality.item())
    return level if low <= level <= high else None


def outputs(
    requested: Collection[str], image: Tensor, file: File | None
) -> dict[str, NDArray[Any]]:
    """Return the requested outputs of `wire.TORCH_STYLEGAN2` by name.

    Args:
        image: RGB (N, H, W, 3) uint8.
        file: its JPEG file, for N = 1.
    """
    named: dict[str, NDArray[Any]] = {}
    if file is not None:
        named[wire.RENDER.name] = jpeg_tensor.pack(file)[None]
    of_pixels = [name for name in requested if name not in named]
    if of_pixels:
        named |= dict.fromkeys(of_pixels, on_host(image))
    return {name: named[name] for name in requested}


def encode(batch: Tensor, qualities: Sequence[int | None]) -> list[File | None]:
    """Encode each image that has a quality as a JPEG file without metadata.

    On a GPU color has full resolution; on a CPU it is `images.encode`.

    Args:
        batch: RGB (N, H, W, 3) uint8.
        qualities: one an image, 1 to 100; None leaves the image out.
    """
    files: list[File | None] = [None] * len(batch)
    for quality in {each for each in qualities if each is not None}:
        rows = [row for row, each in enumerate(qualities) if each == quality]
        for row, file in zip(rows, _encode_rows(batch, rows, quality), strict=True):
            files[row] = file
    return files


def _encode_rows(batch: Tensor, rows: Sequence[int], quality: int) -> list[File]:
    if batch.device.type == "cpu":
        encoded = (images.encode(batch[row].numpy(), "JPEG", quality) for row in rows)
        return [np.frombuffer(data, np.uint8) for data in encoded]
    from torchvision.io import encode_jpeg

    planes = batch.permute(0, 3, 1, 2).contiguous()
    data: list[Tensor] = encode_jpeg([planes[row] for row in rows], quality)
    return [on_host(file) for file in data]


def on_host(data: Tensor) -> NDArray[Any]:
    """Copy `data` to the processor's memory: page-locked, which a GPU copies to directly."""
    if data.device.type != "cpu":
        # PyTorch reuses such memory after it is freed, so it is locked once.
        data = torch.empty(data.shape, dtype=data.dtype, pin_memory=True).copy_(data)
    return data.contiguous().numpy()
