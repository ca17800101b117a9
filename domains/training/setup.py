"""What every stage of a training is given, and how long it runs."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch

SEED = 0
PROGRESS_FILE = "progress.json"
RESTART_STEPS = 100
COMPILATION_PAYS = 100.0  # seconds of a stage; a shorter one is over before compilation has paid
COMPILING_STEPS = 5  # in which everything is compiled that a step calls
LEAST_PROGRESS = 0.1  # seconds that a step counts at least

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class Setup:
    """What every stage is given.

    Attributes:
        data: folder of what the training data is drawn from.
        out: folder of the checkpoints.
        seconds: training time of each stage, without compilation.
        batch: images in a step.
        max_steps: a limit for dry runs.
        deadline: as of `time.monotonic`; a stage that is not done by then stops, with its
            checkpoint, and continues in the next run.
        tiny: small networks for a dry run, in domains that have them.
    """

    data: Path
    out: Path
    device: torch.device
    batch: int
    seconds: dict[str, float]
    max_steps: int | None = None
    deadline: float = math.inf
    tiny: bool = False

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
        return TimeBudget(stage, self)


class TimeBudget:
    """Iterates over training steps, at least one, until the stage's time (or `max_steps`) is used.

    The time that earlier runs used is read from PROGRESS_FILE and counts. A run that the deadline
    stops leaves its time there, so that the next one continues; a stage that is done begins again.
    Loading data does not count, nor do the first steps, which compile.

    Attributes:
        fraction: from 0 to 1, how much of the time is used.
        step: the number of steps of this run.
        resumed: whether an earlier run was stopped.
        compiles: whether the stage runs long enough on a GPU for compilation to pay.
    """

    def __init__(self, stage: str, setup: Setup) -> None:
        self.stage, self.seconds, self.max_steps = stage, setup.seconds[stage], setup.max_steps
        self._deadline, self._progress = setup.deadline, setup.out / PROGRESS_FILE
        self._used = min(read_progress(self._progress).get(stage, 0.0), self.seconds)
        if self._used >= self.seconds:
            self._used = 0.0
        self.resumed = self._used > 0
        self.fraction = self._used / self.seconds
        self.step = 0
        self._start = time.monotonic()
        left = min(self.seconds - self._used, self._deadline - self._start)
        self.compiles = setup.on_gpu and left >= COMPILATION_PAYS

    def compile(self, function: Callable[P, R]) -> Callable[P, R]:
        """Compile a function of the training step, where that pays."""
        return torch.compile(function) if self.compiles else function

    def __iter__(self) -> Iterator[int]:
        first = time.monotonic()
        warm = first
        warm_up = COMPILING_STEPS if self.compiles else 1
        self.step, used = 0, self._used
        while self.fraction < 1.0 and (self.max_steps is None or self.step < self.max_steps):
            yield self.step
            self.step += 1
            now = time.monotonic()
            if self.step <= warm_up:
                warm = now
            used = self._used + max(now - warm, LEAST_PROGRESS)
            self.fraction = min(1.0, used / self.seconds)
            if self.max_steps is not None:
                self.fraction = max(self.fraction, self.step / self.max_steps)
            if now > self._deadline:
                break
        self._used = self.fraction * self.seconds
        rest = time.monotonic() - warm
        self.log(
            f"{self.step} steps: {first - self._start:.1f} s for data, {warm - first:.1f} s for "
            f"the first {min(self.step, warm_up)} steps and compilation, {rest:.1f} s for the rest"
        )

    def use(self, fraction: float) -> None:
        """Count a part of the stage's time that was used without iterating."""
        self.fraction = min(1.0, self.fraction + fraction)
        self._used = self.fraction * self.seconds

    @property
    def is_done(self) -> bool:
        return self.fraction >= 1.0

    def save(self) -> None:
        """Write how much time is used; call it after the checkpoint is written."""
        record_progress(self._progress, self.stage, self._used)

    def log(self, text: str) -> None:
        seconds = time.monotonic() - self._start
        print(f"[{self.stage} {seconds:6.1f} s {self.fraction:5.1%}] {text}", flush=True)


def read_progress(path: Path) -> dict[str, float]:
    """Return the seconds of training that each stage has used."""
    return json.loads(path.read_text("utf-8")) if path.exists() else {}


def record_progress(path: Path, stage: str, seconds: float) -> None:
    """Write that a stage has used that many seconds of training."""
    progress = read_progress(path) | {stage: round(seconds, 1)}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(progress, indent=1) + "\n", "utf-8")
    temporary.replace(path)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, peak: float, budget: TimeBudget, warmup: float
) -> None:
    """Set the rate for a part of the training: linear warm-up, then cosine decay to zero.

    After a stop it rises again over RESTART_STEPS steps, since optimizers are not saved.
    """
    fraction = budget.fraction
    if fraction < warmup:
        factor = max(fraction / warmup, 0.05)
    else:
        factor = 0.5 * (1 + math.cos(math.pi * (fraction - warmup) / (1 - warmup)))
    if budget.resumed:
        factor *= min(1.0, (budget.step + 1) / RESTART_STEPS)
    for group in optimizer.param_groups:
        group["lr"] = peak * factor
