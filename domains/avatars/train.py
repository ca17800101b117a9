"""Train the avatars domain stage by stage, each for a given time.

    python -m domains.avatars.train                # all stages
    python -m domains.avatars.train clip encoder

A stage that finds its own checkpoint continues from it. README.md describes the stages.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import click
import torch

from domains.avatars import (
    compute_statistics,
    train_classifier,
    train_clip,
    train_encoder,
    train_generator,
)
from domains.avatars.caption_data import build_captions
from domains.avatars.renders import build_layers
from domains.avatars.training import Setup


def prepare_layers(setup: Setup) -> None:
    """Run the stage `layers`."""
    if not setup.layers.exists():
        build_layers(setup.layers)


def prepare_captions(setup: Setup) -> None:
    """Run the stage `captions`."""
    if not setup.captions.exists():
        build_captions(setup.captions)


STAGES: dict[str, Callable[[Setup], None]] = {
    "layers": prepare_layers,
    "captions": prepare_captions,
    "mapping": train_generator.run_mapping,
    "generator": train_generator.run_synthesis,
    "clip": train_clip.run,
    "encoder": train_encoder.run,
    "classifier": train_classifier.run,
    "statistics": compute_statistics.run,
}
Folder = click.Path(path_type=Path, file_okay=False)
SECONDS = {"mapping": 40.0, "generator": 360.0, "clip": 120.0, "encoder": 120.0, "classifier": 40.0}


@click.command(context_settings={"show_default": True})
@click.argument("stages", nargs=-1, type=click.Choice(list(STAGES)))
@click.option("--out", type=Folder, default=Path("runs/avatars"), help="Checkpoints.")
@click.option("--data", type=Folder, default=Path("build/avatars"), help="Layers and captions.")
@click.option("--seconds", multiple=True, help="STAGE=SECONDS, training time without compilation.")
@click.option("--batch", default=128, help="Images in a step; CLIP trains on four times as many.")
@click.option("--steps", type=int, help="Stop each stage after this many steps (a dry run).")
def main(
    stages: tuple[str, ...],
    out: Path,
    data: Path,
    seconds: tuple[str, ...],
    batch: int,
    steps: int | None,
) -> None:
    """Train STAGES in the given order (all by default)."""
    out.mkdir(parents=True, exist_ok=True)
    data.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    times = SECONDS | {stage: float(value) for stage, value in (s.split("=") for s in seconds)}
    setup = Setup(data, out, device, batch, times, steps or None)
    for stage in stages or STAGES:
        start = time.monotonic()
        STAGES[stage](setup)
        print(f"== {stage}: {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
