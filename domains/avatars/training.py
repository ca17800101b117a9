"""What the training stages share: time budgets, averaged weights, checkpoints, sample grids."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn


@dataclass
class Budget:
    """Iterates over steps until `seconds` (or `max_steps`) are used, and knows how far it is."""

    name: str
    seconds: float
    max_steps: int = 10**9
    seed: int = 0
    compile: bool = True  # False: a quick look on a CPU
    rate: float = 1.0
    fraction: float = 0.0
    _start: float = field(default_factory=time.monotonic)

    def __iter__(self) -> Iterator[int]:
        self._start = time.monotonic()
        clock = None
        step = 0
        while self.fraction < 1.0 and step < self.max_steps:
            yield step
            step += 1
            if step == 5:  # compilation is over: time counts from here
                clock = time.monotonic()
            if clock is not None:
                self.fraction = min(1.0, (time.monotonic() - clock) / self.seconds)
            if self.max_steps < 10**9:
                self.fraction = max(self.fraction, step / self.max_steps)
        self.log(f"{step} steps")

    def log(self, text: str) -> None:
        seconds = time.monotonic() - self._start
        print(f"[{self.name} {seconds:6.1f} s {self.fraction:5.1%}] {text}", flush=True)


def cosine(fraction: float, warmup: float) -> float:
    """Learning-rate factor: linear warm-up, then half a cosine to zero."""
    if fraction < warmup:
        return max(fraction / warmup, 0.05)
    return 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup)))


class Ema:
    """Exponential moving average of a module's parameters and buffers."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.module, self.decay, self.steps = module, decay, 0
        self.average = copy.deepcopy(module).requires_grad_(False)
        self._pairs = list(zip(self.average.parameters(), module.parameters(), strict=True))

    @torch.no_grad()
    def update(self) -> None:
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        averages = [a for a, _ in self._pairs]
        torch._foreach_lerp_(averages, [p.detach() for _, p in self._pairs], 1 - decay)

    def copy_to(self, module: nn.Module) -> None:
        for target, source in zip(module.parameters(), self.average.parameters(), strict=True):
            target.data.copy_(source)


def save(module: nn.Module, path: Path, without: str = "\0") -> None:
    """Weights in float16 but those whose name starts with `without`, by a temporary name."""
    state = {
        k: (v.half() if v.is_floating_point() else v).cpu().contiguous()
        for k, v in module.state_dict().items()
        if not k.startswith(without)
    }
    temporary = path.with_suffix(".tmp")
    torch.save(state, temporary)
    temporary.rename(path)


def load(module: nn.Module, path: Path, without: str = "\0") -> bool:
    """Loads what `save` wrote; False where there is nothing."""
    if not path.exists():
        return False
    state = torch.load(path, map_location="cpu", weights_only=True)
    own = {k: v for k, v in module.state_dict().items() if k.startswith(without)}
    kept = {k: v for k, v in state.items() if not k.startswith(without)}
    module.load_state_dict(own | kept)
    return True


def psnr(made: Tensor, true: Tensor) -> str:
    """Mean and median PSNR in dB of pictures in [-1, 1]."""
    error = (made.clamp(-1, 1) - true).square().mean((1, 2, 3)).clamp(min=1e-9)
    values = 10 * torch.log10(4 / error)
    return f"mean {values.mean():.1f} dB, median {values.median():.1f} dB, min {values.min():.1f}"


def save_grid(pictures: Tensor, columns: int, path: Path) -> None:
    """Pictures (N, 3, H, W) in [-1, 1] as one JPEG."""
    n, _, h, w = pictures.shape
    rows = math.ceil(n / columns)
    sheet = np.full((rows * h, columns * w, 3), 255, np.uint8)
    data = ((pictures.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    for i, picture in enumerate(data.cpu().numpy()):
        y, x = i // columns * h, i % columns * w
        sheet[y : y + h, x : x + w] = picture
    Image.fromarray(sheet).save(path, quality=88)
