"""Write the served domain: from trained networks to model_repository/avatars.

    python -m domains.avatars.package

Weights are stored in float16, as training saved them, and computed in float32. Every ONNX file is
compared with PyTorch before it is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image

from domains.avatars.caption_data import local_ids, local_vocabulary_size, read_vocabulary
from domains.avatars.models import build_clip, build_encoder, load_generator
from domains.avatars.presets import LICENSE, PRESETS, STRENGTH, THRESHOLD
from domains.avatars.training import load_weights
from styleclip_export.convert.conversion import write_domain_json, write_network
from styleclip_export.convert.network_variants import (
    NetworkVariants,
    clip_text_variants,
    e4e_variants,
    stylegan2_variants,
)
from styleclip_export.convert.random_inputs import latent_factory, seeded
from styleclip_server.pipeline.style_statistics import STATISTICS_FILE
from styleclip_server.serving import model_repository

NAME = "avatars"
DESCRIPTION = {
    "name": NAME,
    "title": "cartoon avatars, 256 x 256",
    "align": False,
    "defaults": {"neutral": "a face", "strength": STRENGTH, "threshold": THRESHOLD},
    "presets": PRESETS,
    "licence": LICENSE,
}
SAMPLES = sorted((Path(__file__).resolve().parents[2] / "demo/samples").glob("avatar-*.png"))


def draw_samples(batch: int) -> tuple[torch.Tensor, ...]:
    """Draw FACE_CROP, float32 (batch, 3, 256, 256), from the sample images."""
    with seeded(batch):
        chosen = torch.randint(len(SAMPLES), (batch,)).tolist()
    faces = [np.asarray(Image.open(SAMPLES[i]).convert("RGB"), np.float32) for i in chosen]
    return (torch.from_numpy(np.stack(faces).transpose(0, 3, 1, 2) / 127.5 - 1),)


def load_variants(runs: Path, data: Path) -> list[NetworkVariants]:
    """Load the trained networks from `runs`, in the variants that are served."""
    with np.load(runs / STATISTICS_FILE) as statistics:
        style_std = torch.from_numpy(statistics["style_std"])
    vocabulary = read_vocabulary(data / "captions.npz")
    generator, encoder = load_generator(runs).eval(), build_encoder()
    clip = build_clip(local_vocabulary_size(vocabulary))
    if not (load_weights(encoder, runs / "encoder.pt") and load_weights(clip, runs / "clip.pt")):
        raise click.ClickException(f"{runs} lacks encoder.pt or clip.pt: train them first")
    e4e = dataclasses.replace(e4e_variants(encoder, generator), calibration_inputs=draw_samples)
    networks = [
        stylegan2_variants(generator, latent_factory(generator, style_std)),
        e4e,
        clip_text_variants(clip, local_ids(vocabulary)),
    ]
    return [dataclasses.replace(variants, float16_weights=True) for variants in networks]


def replace_networks(runs: Path, data: Path, folder: Path) -> None:
    """Write each network to `folder` as version 1, in place of the present one."""
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(runs.glob("*.pt"))}
    origin = {"source": f"domains/{NAME}", "trained": hashes}
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as partial:
        for variants in load_variants(runs, data):
            files = Path(partial, variants.name)
            files.mkdir()
            write_network(variants, files, origin, with_float16=False)
        for files in Path(partial).iterdir():
            shutil.rmtree(folder / files.name / "1", ignore_errors=True)
            model_repository.add_version(
                folder / files.name, {path.name: path for path in files.iterdir()}
            )


@click.command()
@click.option("--runs", type=click.Path(path_type=Path), default=Path("runs/avatars"))
@click.option("--data", type=click.Path(path_type=Path), default=Path("build/avatars"))
@click.option("--repository", "target", type=click.Path(path_type=Path),
              default=Path("model_repository"))  # fmt: skip
@click.option("--only-domain", is_flag=True, help="Write domain.json and the configs, no network.")
def main(runs: Path, data: Path, target: Path, only_domain: bool) -> None:
    """Write the avatars domain to the model repository, replacing version 1."""
    folder = target / NAME
    write_domain_json(folder, DESCRIPTION, load_generator(runs))
    if not only_domain:
        replace_networks(runs, data, folder)
        shutil.copyfile(runs / STATISTICS_FILE, folder / STATISTICS_FILE)
    model_repository.write_configs(target, NAME)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {total / 1e6:.1f} MB in all", flush=True)


if __name__ == "__main__":
    main()
