"""What `stylegan2` answers: pictures as JPEG files where those are wanted, else as pixels.

A GPU encodes JPEG itself (nvJPEG, through torchvision), right behind the network.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from styleclip_contract import limits, wire
from styleclip_server.pipeline import images

File = NDArray[np.uint8]


def qualities(
    rows: int,
    asked: Collection[str],
    paste: NDArray[np.bool_] | None = None,
    format: NDArray[np.object_] | None = None,
    quality: NDArray[np.int32] | None = None,
) -> list[int | None]:
    """The quality of the JPEG file that each row of a request wants; None: it wants none.

    The last three are the request's inputs (N, 1), None if not sent. An unknown format or quality
    is left to `compose`, which refuses it by name.
    """
    if wire.JPEG.name not in asked:
        return [None] * rows
    low, high = limits.QUALITY
    given = zip(
        [False] * rows if paste is None else paste[:, 0],
        [b"JPEG"] * rows if format is None else format[:, 0],
        [95] * rows if quality is None else quality[:, 0],
        strict=True,
    )
    return [
        int(quality) if not paste and format.upper() == b"JPEG" and low <= quality <= high else None
        for paste, format, quality in given
    ]


def answers(
    image: Tensor, files: Sequence[File | None], asked: Collection[str]
) -> dict[str, NDArray[Any]]:
    """The outputs of `wire.TORCH_STYLEGAN2` by name, those that are asked for.

    image: RGB (N, H, W, 3) uint8; files: what `encode` made of it.
    """
    answer: dict[str, NDArray[Any]] = {}
    if wire.JPEG.name in asked:
        answer[wire.JPEG.name] = _joined(files)
        if all(file is not None for file in files):
            answer[wire.UNENCODED.name] = np.zeros((len(image), 1, 1, 3), np.uint8)
    missing = [name for name in asked if name not in answer]
    if missing:
        answer |= dict.fromkeys(missing, on_host(image))
    return {name: answer[name] for name in asked}


def _joined(files: Sequence[File | None]) -> File:
    """Files (N, longest), filled up with zeros."""
    first = files[0]
    if len(files) == 1 and first is not None:
        return first[None]
    none = np.zeros(1, np.uint8)
    found = [none if file is None else file for file in files]
    joined = np.zeros((len(found), max(map(len, found))), np.uint8)
    for row, file in zip(joined, found, strict=True):
        row[: len(file)] = file
    return joined


def encode(pictures: Tensor, qualities: Sequence[int | None]) -> list[File | None]:
    """RGB (N, H, W, 3) uint8 → a JPEG file without metadata for each that has a quality.

    On a GPU colour has full resolution; on a CPU it is `images.encode`.
    """
    files: list[File | None] = [None] * len(pictures)
    for quality in {wanted for wanted in qualities if wanted is not None}:
        rows = [row for row, wanted in enumerate(qualities) if wanted == quality]
        for row, file in zip(rows, _encoded(pictures, rows, quality), strict=True):
            files[row] = file
    return files


def _encoded(pictures: Tensor, rows: Sequence[int], quality: int) -> list[File]:
    if pictures.device.type == "cpu":
        encoded = (images.encode(pictures[row].numpy(), "JPEG", quality) for row in rows)
        return [np.frombuffer(data, np.uint8) for data in encoded]
    from torchvision.io import encode_jpeg

    planes = pictures.permute(0, 3, 1, 2).contiguous()
    data: list[Tensor] = encode_jpeg([planes[row] for row in rows], quality)
    return [on_host(file) for file in data]


def on_host(data: Tensor) -> NDArray[Any]:
    """`data` in the processor's memory: page-locked, which a GPU copies to without a detour."""
    if data.device.type != "cpu":
        # PyTorch keeps such memory when it is freed: it is locked once.
        data = torch.empty(data.shape, dtype=data.dtype, pin_memory=True).copy_(data)
    return data.contiguous().numpy()
