"""Where e4e's kernels run, and the tiles of those that are elementwise."""

from __future__ import annotations

import os

import triton
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"  # Triton runs kernels on the CPU
BLOCK_SIZE = 2048  # elements per program of an elementwise kernel


def runs_kernels(x: Tensor) -> bool:
    """Whether kernels can run on the device of `x`; elsewhere `reference` does."""
    return x.is_cuda or INTERPRETED


def elementwise_blocks(num_channels: int) -> tuple[int, int]:
    """Pixels and channels per program."""
    block_channels = min(64, triton.next_power_of_2(num_channels))
    return BLOCK_SIZE // block_channels, block_channels
