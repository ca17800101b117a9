"""The tiles of e4e's elementwise kernels."""

from __future__ import annotations

import triton

BLOCK_SIZE = 2048  # elements per program


def elementwise_blocks(n_channels: int) -> tuple[int, int]:
    """Choose BLOCK_PIXELS and BLOCK_CHANNELS by the number of channels."""
    block_channels = min(64, triton.next_power_of_2(n_channels))
    return BLOCK_SIZE // block_channels, block_channels
