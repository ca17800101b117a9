"""Copies of GPU tensors in the host's memory."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def copy_to_host(data: Tensor) -> NDArray[Any]:
    """Copy `data` to the host's memory: page-locked, which a GPU copies to directly."""
    if data.device.type != "cpu":
        # PyTorch reuses such memory after it is freed, so it is locked once.
        data = torch.empty(data.shape, dtype=data.dtype, pin_memory=True).copy_(data)
    return data.contiguous().numpy()
