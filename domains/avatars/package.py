"""Write the served domain: from trained networks to model_repository/avatars.

    python -m domains.avatars.package

Weights are stored in float16, as training saved them, and computed in float32. Every ONNX file is
compared with PyTorch before it is written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from torch import nn

from domains.avatars.caption_data import local_ids, local_vocabulary_size, read_vocabulary
from domains.avatars.models import build_clip, build_encoder, load_generator
from domains.avatars.presets import LICENSE, PRESETS, STRENGTH, THRESHOLD
from domains.avatars.training import load_weights
from styleclip_contract import wire
from styleclip_export.convert import onnx_export, onnx_forms, openvino_export
from styleclip_export.convert.accuracy import accuracies
from styleclip_export.convert.compare import make_references
from styleclip_export.convert.random_inputs import (
    RandomInputs,
    random_faces,
    random_latents,
    random_tokens,
    seeded,
)
from styleclip_export.convert.wrappers import FaceToLatent, LatentToImage, TokensToFeatures
from styleclip_server.engines.model_files import MODEL_FILE
from styleclip_server.serving import model_repository

NAME = "avatars"
# Largest differences from PyTorch: pixel levels; W+ and features, of deviation about 1.
BOUNDS = {"stylegan2": 1.0, "e4e": 1e-4, "clip_text": 1e-4}
SAMPLES = sorted((Path(__file__).resolve().parents[2] / "demo/samples").glob("avatar-*.png"))


def draw_samples(batch: int) -> tuple[torch.Tensor, ...]:
    """Draw FACE_CROP, float32 (batch, 3, 256, 256), from the sample images."""
    with seeded(batch):
        chosen = torch.randint(len(SAMPLES), (batch,)).tolist()
    faces = [np.asarray(Image.open(SAMPLES[i]).convert("RGB"), np.float32) for i in chosen]
    return (torch.from_numpy(np.stack(faces).transpose(0, 3, 1, 2) / 127.5 - 1),)


def export_networks(runs: Path, data: Path, files: Path) -> dict[str, dict[str, object]]:
    """Write the three networks, each into a folder below `files`; return their provenance."""
    with np.load(runs / "statistics.npz") as statistics:
        deviations = torch.from_numpy(statistics["style_std"])
    vocabulary = read_vocabulary(data / "captions.npz")
    generator, encoder = load_generator(runs).eval(), build_encoder()
    clip = build_clip(local_vocabulary_size(vocabulary))
    if not (load_weights(encoder, runs / "encoder.pt") and load_weights(clip, runs / "clip.pt")):
        raise click.ClickException(f"{runs} lacks encoder.pt or clip.pt: train them first")
    table = local_ids(vocabulary)
    latents = random_latents(generator, deviations)
    # Model → reference, the form for ONNX Runtime, random inputs, inputs of the domain.
    networks: dict[wire.Model, tuple[nn.Module, nn.Module, RandomInputs, RandomInputs]] = {
        wire.STYLEGAN2: (
            LatentToImage(generator),
            LatentToImage(generator, onnx_forms.synthesis),
            latents,
            latents,
        ),
        wire.E4E: (
            FaceToLatent(encoder),
            FaceToLatent(encoder, encode=onnx_forms.encode),
            random_faces,
            draw_samples,
        ),
        wire.CLIP_TEXT: (
            TokensToFeatures(clip, table),
            TokensToFeatures(clip, table, onnx_forms.encode_text),
            random_tokens,
            random_tokens,
        ),
    }
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(runs.glob("*.pt"))}
    required = accuracies(generator)
    provenances = {}
    for model, (reference, module, random_inputs, domain_inputs) in networks.items():
        exported = onnx_export.export(
            module, model, random_inputs, make_references(reference.eval(), random_inputs),
            BOUNDS[model.name], float16_weights=onnx_export.all_weights,
        )  # fmt: skip
        worst = max(c.largest for c in exported.comparisons)
        size = len(exported.data) / 1e6
        print(f"{model.name}: {size:.1f} MB, at most {worst:.2g} from PyTorch", flush=True)
        folder = files / model.name
        folder.mkdir()
        (folder / MODEL_FILE).write_bytes(exported.data)
        provenance = exported.provenance(source=f"domains/{NAME}", trained=hashes)
        if model.name in openvino_export.NETWORKS:
            provenance["openvino"] = openvino_export.write(
                folder, reference, model, domain_inputs, make_references(reference, domain_inputs),
                required[model.name], BOUNDS[model.name], onnx_export.all_weights,
            )  # fmt: skip
            print(f"{model.name} in OpenVINO: {openvino_export.summary(provenance['openvino'])}")
        provenances[model.name] = provenance
    return provenances


def describe_domain(runs: Path) -> dict[str, object]:
    """Return the content of domain.json."""
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
        "licence": LICENSE,
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
    model_repository.write_text(
        folder / "domain.json",
        json.dumps(describe_domain(runs), indent=2, ensure_ascii=False) + "\n",
    )
    if not only_domain:
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as files:
            for name, provenance in export_networks(runs, data, Path(files)).items():
                written: dict[str, bytes | Path] = {
                    path.name: path for path in Path(files, name).iterdir()
                }
                text = json.dumps(provenance, indent=2) + "\n"
                shutil.rmtree(folder / name / "1", ignore_errors=True)
                written["provenance.json"] = text.encode()
                model_repository.add_version(folder / name, written)
        shutil.copyfile(runs / "statistics.npz", folder / "statistics.npz")
    model_repository.write_configs(target, NAME)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {total / 1e6:.1f} MB in all", flush=True)


if __name__ == "__main__":
    main()
