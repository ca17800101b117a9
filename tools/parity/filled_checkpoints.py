"""Writes checkpoints of full size and official layout, filled by a rule in place of weights.

They exercise fetch, convert, stats, serve and edit without the published files: the images show no
face, but names, shapes, sizes and speed are those of the official networks. Rule and names come
from a golden folder (see `styleclip-export verify`).
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch

from styleclip_export.verify.fill import fill

BLUR = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])) / 64 * 4


@click.command()
@click.argument("target", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--golden", type=click.Path(exists=True, path_type=Path), default=Path("tests/golden")
)
def main(target: Path, golden: Path) -> None:
    """Write e4e_ffhq_encode.pt and ViT-B-32.pt to TARGET."""
    seed = json.loads((golden / "golden.json").read_text())["seed"]
    target.mkdir(parents=True, exist_ok=True)

    def state(name: str) -> dict[str, torch.Tensor]:
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
    del checkpoint
    torch.save(state("keys_clip_vit_b32.json"), target / "ViT-B-32.pt")
    for path in sorted(target.glob("*.pt")):
        print(f"{path}: {path.stat().st_size / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
