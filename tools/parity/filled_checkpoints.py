"""Writes checkpoints of full size and official layout, filled by a rule in place of weights.

They exercise fetch, convert, stats, serve and edit without the published files: the images show no
face, but names, shapes, sizes and speed are those of the official networks. Rule and names come
from a golden folder (see `styleclip-export verify`).
"""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

from styleclip_export.statistics.fs3 import fs3_channels
from styleclip_export.verify.fill import fill
from styleclip_networks.latents import truncate_latents
from styleclip_networks.stylegan2 import Generator
from tools.parity.nvidia_pickles import tensorflow

BLUR = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64 * 4


SAMPLES = 20_000  # of W, for S_mean_std; StyleCLIP takes 100,000
TRUNCATION = 0.7  # of StyleCLIP's GetCode.py


@click.command()
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--golden", type=click.Path(exists=True, path_type=Path), default=Path("tests/golden")
)
def main(target: Path, golden: Path) -> None:
    """Write e4e_ffhq_encode.pt, ViT-B-32.pt, fs3.npy, S_mean_std and ffhq.pkl to TARGET."""
    seed = json.loads((golden / "golden.json").read_text())["seed"]
    target.mkdir(parents=True, exist_ok=True)

    def state(name: str) -> dict[str, Tensor]:
        keys = json.loads((golden / name).read_text())
        shapes = keys.get("state_dict", keys)
        filled = {k: torch.from_numpy(v) for k, v in fill(shapes, seed=seed).items()}
        for key in shapes:
            if key.endswith(".kernel"):
                filled[key] = BLUR.clone()
            elif key.endswith(".num_batches_tracked"):
                filled[key] = torch.tensor(0)
        return {key: filled[key] for key in shapes}

    keys = json.loads((golden / "keys_e4e_1024.json").read_text())
    average = torch.from_numpy(fill({"latent_avg": keys["latent_avg"]}, seed=seed)["latent_avg"])
    checkpoint = {
        "state_dict": state("keys_e4e_1024.json"),
        "latent_avg": average,
        "opts": keys.get("opts", {}),
    }
    torch.save(checkpoint, target / "e4e_ffhq_encode.pt")
    decoder = {
        name.removeprefix("decoder."): tensor
        for name, tensor in checkpoint["state_dict"].items()
        if name.startswith("decoder.")
    }
    del checkpoint
    torch.save(state("keys_clip_vit_b32.json"), target / "ViT-B-32.pt")
    write_statistics_and_pickle(target, decoder)
    for path in sorted(target.iterdir()):
        print(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


@torch.no_grad()
def write_statistics_and_pickle(target: Path, state: dict[str, Tensor]) -> None:
    """Write StyleCLIP's two files for the generator, and NVIDIA's pickle of it."""
    generator = Generator().eval()
    generator.load_state_dict(state)
    z = torch.randn(SAMPLES, generator.w_dim, generator=torch.Generator().manual_seed(5))
    w = generator.mapping(z)
    w_avg = w.mean(0)
    w_plus = truncate_latents(w[:, None], w_avg, TRUNCATION).expand(-1, generator.num_latents, -1)
    styles = [style.numpy() for style in generator.affine(w_plus)]
    moments = [[style.mean(0) for style in styles], [style.std(0) for style in styles]]
    (target / "S_mean_std").write_bytes(pickle.dumps(moments, 4))
    rows = np.random.default_rng(0).standard_normal((len(fs3_channels(generator)), 512))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    np.save(target / "fs3.npy", rows.astype(np.float16))
    (target / "ffhq.pkl").write_bytes(tensorflow(state, w_avg))


if __name__ == "__main__":
    main()
