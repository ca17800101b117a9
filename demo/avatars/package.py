"""Makes the served domain: trained networks → model_repository/avatars.

    PYTHONPATH=demo/avatars python demo/avatars/package.py

Weights are stored in float16 (as training saved them, so nothing is lost) and computed in
float32; every ONNX file is compared with PyTorch before it is written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import click
import numpy as np
import torch
from presets import LICENCE, PRESETS, STRENGTH, THRESHOLD
from styleclip_client import contract
from styleclip_export import onnx_export, repository
from styleclip_export.onnx_export import Exported
from train_clip import UNKNOWN, new_clip
from train_encoder import new_encoder
from train_generator import load_generator
from training import load

NAME = "avatars"
# Largest differences from PyTorch: pixel levels, and W+ and features of deviation about 1.
BOUNDS = {"stylegan2": 1.0, "e4e": 1e-4, "clip_text": 1e-4}


def export_all(runs: Path, data: Path) -> dict[str, Exported]:
    """The three networks as checked ONNX."""
    with np.load(runs / "statistics.npz") as statistics:
        deviations = torch.from_numpy(statistics["style_std"])
    with np.load(data / "captions.npz") as captions:
        vocabulary = captions["vocabulary"]
    generator, encoder = load_generator(runs).eval(), new_encoder()
    clip = new_clip(len(vocabulary) + 2)
    if not (load(encoder, runs / "encoder.pt") and load(clip, runs / "clip.pt")):
        raise click.ClickException(f"{runs} lacks encoder.pt or clip.pt: train them first")
    table = np.full(49408, UNKNOWN, np.int32)
    table[vocabulary] = np.where(vocabulary == 0, 0, np.arange(len(vocabulary)) + 1)
    parts = {
        contract.STYLEGAN2: (
            onnx_export.LatentToPicture(generator),
            onnx_export.random_latents(generator, deviations),
        ),
        contract.E4E: (onnx_export.FaceToLatent(encoder), onnx_export.random_faces),
        contract.CLIP_TEXT: (
            onnx_export.TokensToFeatures(clip, table),
            onnx_export.random_tokens,
        ),
    }
    done = {}
    for model, (module, example) in parts.items():
        exported = onnx_export.export(module, model, example, BOUNDS[model.name], store_half=True)
        worst = max(c.largest for c in exported.comparisons)
        size = len(exported.data) / 1e6
        print(f"{model.name}: {size:.1f} MB, at most {worst:.2g} from PyTorch", flush=True)
        done[model.name] = exported
    return done


def domain(runs: Path) -> dict[str, object]:
    """The domain as data; presets and defaults are chosen by the quality report."""
    generator = load_generator(runs)
    return {
        "name": NAME,
        "title": "cartoon avatars, 256 x 256",
        "resolution": generator.resolution,
        "num_latents": generator.num_latents,
        "w_dim": generator.w_dim,
        "style_channels": list(generator.style_channels),
        "align": False,
        "defaults": {"neutral": "a face", "strength": STRENGTH, "threshold": THRESHOLD},
        "presets": [
            {"neutral": "a face", "strength": STRENGTH, "threshold": THRESHOLD} | preset
            for preset in PRESETS
        ],
        "licence": LICENCE,
    }


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/avatars"))
@click.option("--data", type=click.Path(path_type=Path), default=Path("build/avatars"))
@click.option("--repository", "target", type=click.Path(path_type=Path),
              default=Path("model_repository"))  # fmt: skip
@click.option("--only-domain", is_flag=True, help="Write domain.json and the configs, no network.")
def main(runs: Path, data: Path, target: Path, only_domain: bool) -> None:
    """Write the avatars domain to the model repository, replacing version 1."""
    folder = target / NAME
    repository.write_text(
        folder / "domain.json", json.dumps(domain(runs), indent=2, ensure_ascii=False) + "\n"
    )
    if not only_domain:
        exported = export_all(runs, data)
        hashes = {
            path.name: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(runs.glob("*.pt"))
        }
        for name, network in exported.items():
            provenance = network.provenance(source="demo/avatars", trained=hashes)
            shutil.rmtree(folder / name / "1", ignore_errors=True)
            repository.add_version(
                folder / name,
                {
                    "model.onnx": network.data,
                    "provenance.json": (json.dumps(provenance, indent=2) + "\n").encode(),
                },
            )
        shutil.copyfile(runs / "statistics.npz", folder / "statistics.npz")
    repository.write_configs(target, NAME)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {total / 1e6:.1f} MB in all", flush=True)


if __name__ == "__main__":
    main()
