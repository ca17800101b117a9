"""JPEG files of the generator's images, encoded on the GPU (nvJPEG, through torchvision)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from styleclip_server.engines.cuda.host_memory import copy_to_host
from styleclip_server.pipeline import images

JpegFile = NDArray[np.uint8]


def encode(batch: Tensor, qualities: Sequence[int | None]) -> list[JpegFile | None]:
    """Encode each image that has a quality as a JPEG file without metadata.

    On a GPU color has full resolution; on a CPU it is `images.encode`.

    Args:
        batch: RGB (N, H, W, 3) uint8.
        qualities: one per image, 1 to 100; None leaves the image out.
    """
    files: list[JpegFile | None] = [None] * len(batch)
    for quality in {quality for quality in qualities if quality is not None}:
        rows = [row for row, requested in enumerate(qualities) if requested == quality]
        for row, file in zip(rows, _encode_rows(batch, rows, quality), strict=True):
            files[row] = file
    return files


def _encode_rows(batch: Tensor, rows: Sequence[int], quality: int) -> list[JpegFile]:
    if batch.device.type == "cpu":
        encoded = (images.encode(batch[row].numpy(), "JPEG", quality) for row in rows)
        return [np.frombuffer(data, np.uint8) for data in encoded]
    from torchvision.io import encode_jpeg

    planes = batch.permute(0, 3, 1, 2).contiguous()
    torch.cuda.current_stream().synchronize()  # the encoder has a stream of its own
    data: list[Tensor] = encode_jpeg([planes[row] for row in rows], quality)
    ends = list(itertools.accumulate(map(len, data)))
    joined = copy_to_host(torch.cat(data))  # each copy waits for the GPU
    return np.split(joined, ends[:-1])
