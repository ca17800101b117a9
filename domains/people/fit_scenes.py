"""Fit the scene encoder to the latents of the trained e4e, where `scene.pt` is gone.

    python -m domains.training.served_weights model_repository/people runs/people
    python -m domains.people.train heads perceptor
    python -m domains.people.fit_scenes

The stages `clip`, `image_tower` and `statistics` need it, and the served files do not have it. It
is linear, so a ridge regression finds it.
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from torch import Tensor

from domains.people.codes import FREE, SceneEncoder
from domains.people.crops import load_crops
from domains.people.models import load_generator
from domains.training.checkpoints import require_weights, save_weights
from domains.training.networks import build_encoder
from domains.training.setup import Setup

BATCH = 128
RIDGE = 1.0  # crops
_Path = click.Path(path_type=Path)


@torch.no_grad()
def fit_scenes(setup: Setup) -> float:
    """Write `scene.pt`; return the share of the variance of held-out crops that it explains."""
    crops, held_out = load_crops(setup)
    num_latents = load_generator(setup).num_latents
    encoder = build_encoder(num_latents)
    require_weights(encoder, setup.out / "encoder.pt")
    encoder = encoder.to(setup.device).float().eval()

    def free_dimensions(images: Tensor) -> Tensor:
        return encoder(images)[..., -FREE:].mean(1)

    targets, wanted = (
        torch.cat([free_dimensions(some.images(i)) for i in _indices(len(some), setup.device)])
        for some in (crops, held_out)
    )
    scene = SceneEncoder(crops.scenes.shape[1])
    scene.to(setup.device)
    scene.fit(crops.scenes)
    x = scene.normalize(crops.scenes).double()
    mean = targets.double().mean(0)
    center = x.mean(0)
    y, x = targets.double() - mean, x - center
    ridge = RIDGE * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(x.T @ x + ridge, x.T @ y)
    scene.linear.weight.copy_(weight.T)
    scene.linear.bias.copy_(mean - center @ weight)
    save_weights(scene, setup.out / "scene.pt")
    error = (scene(held_out.scenes) - wanted).square().mean()
    return float(1 - error / wanted.var(0).mean())


def _indices(count: int, device: torch.device) -> tuple[Tensor, ...]:
    return torch.arange(count, device=device).split(BATCH)


@click.command(context_settings={"show_default": True})
@click.option("--runs", type=_Path, default=Path("runs/people"))
@click.option("--data", type=_Path, default=Path("build/people"))
def main(runs: Path, data: Path) -> None:
    """Write the scene encoder of the served generator to RUNS."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    explained = fit_scenes(Setup(data, runs, device, BATCH, {}))
    print(f"{runs / 'scene.pt'}: explains {explained:.1%} of held-out latents", flush=True)


if __name__ == "__main__":
    main()
