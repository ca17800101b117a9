"""Which requests of the generator get a JPEG file, and the outputs with it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from styleclip_contract import jpeg_tensor, limits, wire
from styleclip_server.engines.cuda.host_memory import copy_to_host
from styleclip_server.engines.cuda.jpeg import JpegFile


def requested_jpeg_quality(
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


def build_outputs(
    requested: Collection[str], image: Tensor, file: JpegFile | None
) -> dict[str, NDArray[Any]]:
    """Return the requested outputs of `wire.TORCH_STYLEGAN2` by name.

    Args:
        image: RGB (N, H, W, 3) uint8.
        file: its JPEG file, for N = 1.
    """
    named: dict[str, NDArray[Any]] = {}
    if file is not None:
        named[wire.RENDER.name] = jpeg_tensor.pack(file)[None]
    pixel_names = [name for name in requested if name not in named]
    if pixel_names:
        named |= dict.fromkeys(pixel_names, copy_to_host(image))
    return {name: named[name] for name in requested}
