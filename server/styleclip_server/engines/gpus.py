"""The GPUs of this machine, without loading CUDA."""

from __future__ import annotations

import os
from pathlib import Path

_DEVICES = Path("/dev")


def count_gpus() -> int:
    """Return how many GPUs a process of this one's environment can use."""
    present = sum(path.name.removeprefix("nvidia").isdigit() for path in _DEVICES.glob("nvidia*"))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return present
    return min(present, len([device for device in visible.split(",") if device.strip()]))
