"""Shared by the training stages: their setup, time budgets, EMA, checkpoints, sample grids."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

SEED = 0


@dataclass(frozen=True)
class Setup:
    """What every stage is given.

    Attributes:
        data: folder of `layers.npz` and `captions.npz`.
        out: folder of the checkpoints.
        seconds: training time of each stage, without compilation.
        max_steps: a limit for dry runs.
    """

    data: Path
    out: Path
    device: torch.device
    batch: int
    seconds: dict[str, float]
    max_steps: int | None = None

    @property
    def layers(self) -> Path:
        return self.data / "layers.npz"

    @property
    def captions(self) -> Path:
        return self.data / "captions.npz"

    @property
    def on_gpu(self) -> bool:
        """Whether the device is a GPU; only there, training is compiled and in bfloat16."""
        return self.device.type == "cuda"

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.on_gpu else torch.float32

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.on_gpu)

    def budget(self, stage: str) -> TimeBudget:
        return TimeBudget(stage, self.seconds[stage], self.max_steps)


class TimeBudget:
    """Iterates over training steps until the time (or `max_steps`) is used up.

    `fraction`, from 0 to 1, is how much of it is used.
    """

    def __init__(self, stage: str, seconds: float, max_steps: int | None) -> None:
        self.stage, self.seconds, self.max_steps = stage, seconds, max_steps
        self.fraction = 0.0
        self._start = time.monotonic()

    def __iter__(self) -> Iterator[int]:
        self._start = time.monotonic()
        compiled = None
        step = 0
        while self.fraction < 1.0 and (self.max_steps is None or step < self.max_steps):
            yield step
            step += 1
            if step == 5:  # compilation is over: time counts from here
                compiled = time.monotonic()
            if compiled is not None:
                self.fraction = min(1.0, (time.monotonic() - compiled) / self.seconds)
            if self.max_steps is not None:
                self.fraction = max(self.fraction, step / self.max_steps)
        self.log(f"{step} steps")

    def log(self, text: str) -> None:
        seconds = time.monotonic() - self._start
        print(f"[{self.stage} {seconds:6.1f} s {self.fraction:5.1%}] {text}", flush=True)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, peak: float, fraction: float, warmup: float
) -> None:
    """Set the rate for a part of the training: linear warm-up, then cosine decay to zero."""
    if fraction < warmup:
        factor = max(fraction / warmup, 0.05)
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup)))
    for group in optimizer.param_groups:
        group["lr"] = peak * factor


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


def format_psnr(images: Tensor, targets: Tensor) -> str:
    """Format mean, median and minimum PSNR in dB of images (N, 3, H, W) in [-1, 1]."""
    error = (images.clamp(-1, 1) - targets).square().mean((1, 2, 3)).clamp(min=1e-9)
    values = 10 * torch.log10(4 / error)
    return f"mean {values.mean():.1f} dB, median {values.median():.1f} dB, min {values.min():.1f}"


def save_grid(images: Tensor, columns: int, path: Path) -> None:
    """Save images (N, 3, H, W) in [-1, 1] as one JPEG, row by row."""
    n, _, height, width = images.shape
    rows = math.ceil(n / columns)
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    pixels = ((images.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1)
    for i, image in enumerate(pixels.cpu().numpy()):
        y, x = i // columns * height, i % columns * width
        sheet[y : y + height, x : x + width] = image
    Image.fromarray(sheet).save(path, quality=88)
