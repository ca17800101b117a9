"""Makes the served domain: trained networks → model_repository/avatars.

    PYTHONPATH=domains/avatars python domains/avatars/package.py

Weights are stored in float16 (as training saved them, so nothing is lost) and computed in
float32; every ONNX file is compared with PyTorch before it is written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import click
import numpy as np
import torch
from PIL import Image
from presets import LICENCE, PRESETS, STRENGTH, THRESHOLD
from train_clip import UNKNOWN, new_clip
from train_encoder import new_encoder
from train_generator import load_generator
from training import load

from styleclip_contract import wire
from styleclip_export.convert import float16, onnx_export, openvino_export
from styleclip_server.serving import configs

NAME = "avatars"
# Largest differences from PyTorch: pixel levels, and W+ and features of deviation about 1.
BOUNDS = {"stylegan2": 1.0, "e4e": 1e-4, "clip_text": 1e-4}
SAMPLES = sorted(Path("demo/samples").glob("avatar-*.png"))

Example = Callable[[int], tuple[torch.Tensor, ...]]


def avatars(batch: int) -> tuple[torch.Tensor, ...]:
    """FACE_CROP: the sample pictures, as on them bfloat16 is measured."""
    with onnx_export.seeded(batch):
        chosen = torch.randint(len(SAMPLES), (batch,)).tolist()
    faces = [np.asarray(Image.open(SAMPLES[i]).convert("RGB"), np.float32) for i in chosen]
    return (torch.from_numpy(np.stack(faces).transpose(0, 3, 1, 2) / 127.5 - 1),)


def export_all(runs: Path, data: Path, files: Path) -> dict[str, dict[str, object]]:
    """Writes the three networks, each into a folder below `files`; their provenance."""
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
    latents = onnx_export.random_latents(generator, deviations)
    parts: dict[wire.Model, tuple[torch.nn.Module, Example, Example]] = {
        wire.STYLEGAN2: (onnx_export.LatentToPicture(generator), latents, latents),
        wire.E4E: (onnx_export.FaceToLatent(encoder), onnx_export.random_faces, avatars),
        wire.CLIP_TEXT: (
            onnx_export.TokensToFeatures(clip, table),
            onnx_export.random_tokens,
            onnx_export.random_tokens,
        ),
    }
    hashes = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(runs.glob("*.pt"))}
    halves = float16.networks(generator, encoder, clip, torch.zeros(generator.w_dim))
    done = {}
    for model, (module, example, of_domain) in parts.items():
        exported = onnx_export.export(module, model, example, BOUNDS[model.name], store_half=True)
        worst = max(c.largest for c in exported.comparisons)
        size = len(exported.data) / 1e6
        print(f"{model.name}: {size:.1f} MB, at most {worst:.2g} from PyTorch", flush=True)
        folder = files / model.name
        folder.mkdir()
        (folder / configs.WHOLE_FILE).write_bytes(exported.data)
        provenance = exported.provenance(source=f"demo/{NAME}", trained=hashes)
        if isinstance(module, openvino_export.MODULES):
            references = onnx_export.make_references(module, of_domain)
            provenance["openvino"] = openvino_export.write(
                folder, module, model, of_domain, references, halves[model.name],
                BOUNDS[model.name], onnx_export.everything,
            )  # fmt: skip
            print(f"{model.name} in OpenVINO: {openvino_export.told(provenance['openvino'])}")
        done[model.name] = provenance
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
    configs.write_text(
        folder / "domain.json", json.dumps(domain(runs), indent=2, ensure_ascii=False) + "\n"
    )
    if not only_domain:
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as files:
            for name, provenance in export_all(runs, data, Path(files)).items():
                made = {path.name: path for path in Path(files, name).iterdir()}
                text = json.dumps(provenance, indent=2) + "\n"
                shutil.rmtree(folder / name / "1", ignore_errors=True)
                configs.add_version(folder / name, {**made, "provenance.json": text.encode()})
        shutil.copyfile(runs / "statistics.npz", folder / "statistics.npz")
    configs.write_configs(target, NAME)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {total / 1e6:.1f} MB in all", flush=True)


if __name__ == "__main__":
    main()
