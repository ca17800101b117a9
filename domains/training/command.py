"""The command that trains a domain stage by stage."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import torch

from domains.training.setup import PROGRESS_FILE, Setup, read_progress, record_progress

Stage = Callable[[Setup], bool | None]
"""Runs a stage; one without a time budget returns False where the next run has to continue it."""
BEGINNING = 30.0  # seconds that must be left to begin one more stage
_Folder = click.Path(path_type=Path, file_okay=False)


def build_command(
    domain: str,
    stages: Mapping[str, Stage],
    seconds: Mapping[str, float],
) -> click.Command:
    """Return the command of `python -m domains.<domain>.train`.

    Args:
        stages: by name, in the order of the training.
        seconds: training time of the stages that have a time budget.
    """

    @click.command(context_settings={"show_default": True})
    @click.argument("names", metavar="[STAGE]...", nargs=-1, type=click.Choice(list(stages)))
    @click.option("--out", type=_Folder, default=Path("runs", domain), help="Checkpoints.")
    @click.option("--data", type=_Folder, default=Path("build", domain), help="Training data.")
    @click.option(
        "--seconds",
        "times",
        multiple=True,
        help="STAGE=SECONDS: training time without compilation; a number alone: stop after this "
        "time, and continue with the next run.",
    )
    @click.option("--batch", default=128, help="Images in a step; CLIP trains on four times more.")
    @click.option("--steps", type=int, help="Stop each stage after this many steps (a dry run).")
    @click.option("--tiny", is_flag=True, help="Small networks, for dry runs on a CPU.")
    def command(
        names: tuple[str, ...],
        out: Path,
        data: Path,
        times: tuple[str, ...],
        batch: int,
        steps: int | None,
        tiny: bool,
    ) -> None:
        """Train STAGEs in the given order; by default all that are not done."""
        out.mkdir(parents=True, exist_ok=True)
        data.mkdir(parents=True, exist_ok=True)
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        deadline = time.monotonic() + min([float(t) for t in times if "=" not in t] or [math.inf])
        given = {stage: float(value) for stage, value in (t.split("=") for t in times if "=" in t)}
        setup = Setup(data, out, device, batch, {**seconds, **given}, steps or None, deadline, tiny)
        used = read_progress(out / PROGRESS_FILE)
        begun = False
        for name in names or stages:
            if not names and used.get(name, -1.0) >= setup.seconds.get(name, 0.0):
                continue
            if begun and deadline - time.monotonic() < BEGINNING:
                print(f"== {name}: left to the next run", flush=True)
                break
            begun, start = True, time.monotonic()
            done = stages[name](setup)
            if name not in setup.seconds and done is not False:
                record_progress(out / PROGRESS_FILE, name, 0.0)
            print(f"== {name}: {time.monotonic() - start:.1f} s", flush=True)

    return command
