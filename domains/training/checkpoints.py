"""Weights of networks in training: their moving average, and their files in float16."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import nn


class Ema:
    """Exponential moving average of a module's parameters."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay, self.steps = decay, 0
        self.average = copy.deepcopy(module).requires_grad_(False)
        self._pairs = list(zip(self.average.parameters(), module.parameters(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages = [average for average, _ in self._pairs]
        torch._foreach_lerp_(averages, [p.detach() for _, p in self._pairs], 1 - decay)

    def copy_to(self, module: nn.Module) -> None:
        for target, source in zip(module.parameters(), self.average.parameters(), strict=True):
            target.data.copy_(source)


def save_weights(module: nn.Module, path: Path, exclude: str | None = None) -> None:
    """Write a state_dict in float16, without the names that start with `exclude`, atomically."""
    state = {
        name: (tensor.half() if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in module.state_dict().items()
        if exclude is None or not name.startswith(exclude)
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.rename(path)


def load_weights(module: nn.Module, path: Path, exclude: str | None = None) -> bool:
    """Load what `save_weights` wrote. Return False if there is no file."""
    if not path.exists():
        return False
    state = torch.load(path, map_location="cpu", weights_only=True)
    if exclude is not None:
        state |= {k: v for k, v in module.state_dict().items() if k.startswith(exclude)}
    module.load_state_dict(state)
    return True


def require_weights(module: nn.Module, path: Path) -> None:
    """Load what `save_weights` wrote, or say which stage is missing."""
    if not load_weights(module, path):
        raise FileNotFoundError(f"{path} is missing: run the stage that trains it first")
