"""Trains the avatars domain, stage by stage, within given seconds; continues where it stopped.

    python domains/avatars/train.py generator clip encoder classifier statistics

Each stage reads and writes `--out`. Stages that find their own checkpoint go on from it.
"""

from __future__ import annotations

import time
from pathlib import Path

import click
import torch
from training import Budget

STAGES = (
    "layers",
    "captions",
    "mapping",
    "generator",
    "clip",
    "encoder",
    "classifier",
    "statistics",
)
SECONDS = {"mapping": 40, "generator": 360, "clip": 120, "encoder": 120, "classifier": 40}


@click.command()
@click.argument("stages", nargs=-1, type=click.Choice(STAGES))
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/avatars"))
@click.option("--data", type=click.Path(path_type=Path), default=Path("build/avatars"))
@click.option("--seconds", multiple=True, help="STAGE=SECONDS, training time without compilation")
@click.option("--batch", default=128, show_default=True)
@click.option("--steps", type=int, help="Stop each stage after this many steps (a dry run).")
def main(
    stages: tuple[str, ...],
    out: Path,
    data: Path,
    seconds: tuple[str, ...],
    batch: int,
    steps: int | None,
) -> None:
    """Trains STAGES in the given order (all by default)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    out.mkdir(parents=True, exist_ok=True)
    data.mkdir(parents=True, exist_ok=True)
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    given = SECONDS | {k: float(v) for k, v in (s.split("=") for s in seconds)}

    def budget(name: str, limit: float) -> Budget:
        return Budget(name, limit, steps or 10**9, compile=device.type == "cuda")

    for stage in stages or STAGES:
        start = time.monotonic()
        if stage == "layers":
            from renders import build_layers

            if not (data / "layers.npz").exists():
                build_layers(data / "layers.npz")
        elif stage == "captions":
            from train_clip import build_captions

            if not (data / "captions.npz").exists():
                build_captions(data / "captions.npz")
        elif stage == "mapping":
            import train_generator

            train_generator.run_mapping(out, device, budget("mapping", given["mapping"]))
        elif stage == "generator":
            import train_generator

            train_generator.run(
                data / "layers.npz",
                out,
                device,
                budget("generator", given["generator"]),
                batch,
            )
        elif stage == "clip":
            import train_clip

            train_clip.run(data, out, device, budget("clip", given["clip"]), 4 * batch)
        elif stage == "encoder":
            import train_encoder

            train_encoder.run(
                data / "layers.npz", out, device, budget("encoder", given["encoder"]), batch
            )
        elif stage == "classifier":
            import train_classifier

            train_classifier.run(
                data / "layers.npz", out, device, budget("classifier", given["classifier"]), batch
            )
        elif stage == "statistics":
            import compute_statistics

            compute_statistics.run(data, out, device)
        print(f"== {stage}: {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
