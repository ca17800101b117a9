"""From trained networks to a served domain in a model repository.

Weights are stored in float16, as training saved them, and computed in float32. Every ONNX file is
compared with PyTorch before it is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from domains.training.caption_data import local_ids, local_vocabulary_size, read_vocabulary
from domains.training.checkpoints import require_weights
from domains.training.feature_editor import (
    EDITOR_FILE,
    INVERTER_FILE,
    build_editor,
    build_inverter,
)
from domains.training.networks import build_clip
from styleclip_contract import limits, wire
from styleclip_export.checkpoints.domain_files import DomainNetworks
from styleclip_export.checkpoints.feature_editors import FeatureEditorCheckpoint
from styleclip_export.convert import feature_export
from styleclip_export.convert.conversion import (
    write_domain_json,
    write_features,
    write_mapping,
    write_network,
)
from styleclip_export.convert.network_variants import (
    NetworkVariants,
    clip_text_variants,
    e4e_variants,
    stylegan2_variants,
)
from styleclip_export.convert.random_inputs import InputFactory, Inputs, latent_factory, seeded
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.stylegan2 import EqualLinear, Generator
from styleclip_server.pipeline.random_latents import load_mapping
from styleclip_server.pipeline.style_statistics import STATISTICS_FILE
from styleclip_server.serving import model_repository


@dataclass(frozen=True)
class Trained:
    """A domain's trained generator, its untrained encoder, and the folders of its training.

    Attributes:
        tiny: see `Setup`.
    """

    generator: Generator
    encoder: Encoder4Editing
    runs: Path
    data: Path
    tiny: bool = False

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of each checkpoint by its name."""
        files = sorted(self.runs.glob("*.pt"))
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def face_factory(crops: Sequence[np.ndarray]) -> InputFactory:
    """Return a factory of FACE_CROP, float32 (N, 3, 256, 256), drawn from uint8 RGB crops."""

    def draw_faces(batch: int) -> Inputs:
        with seeded(batch):
            chosen = torch.randint(len(crops), (batch,)).tolist()
        faces = np.stack([crops[i] for i in chosen]).transpose(0, 3, 1, 2)
        return (torch.from_numpy(faces.astype(np.float32) / 127.5 - 1),)

    return draw_faces


def load_variants(trained: Trained, draw_faces: InputFactory) -> list[NetworkVariants]:
    """Return the networks in the variants that are served."""
    with np.load(trained.runs / STATISTICS_FILE) as statistics:
        style_std = torch.from_numpy(statistics["style_std"])
    vocabulary = read_vocabulary(trained.data / "captions.npz")
    generator, encoder = trained.generator.eval(), trained.encoder
    clip = build_clip(local_vocabulary_size(vocabulary))
    require_weights(encoder, trained.runs / "encoder.pt")
    require_weights(clip, trained.runs / "clip.pt")
    e4e = dataclasses.replace(e4e_variants(encoder, generator), calibration_inputs=draw_faces)
    networks = [
        stylegan2_variants(generator, latent_factory(generator, style_std)),
        e4e,
        clip_text_variants(clip, local_ids(vocabulary)),
    ]
    return [dataclasses.replace(variants, float16_weights=True) for variants in networks]


def write_domain(
    trained: Trained,
    description: Mapping[str, Any],
    repository: Path,
    draw_faces: InputFactory | None,
    *,
    with_features: bool = True,
) -> None:
    """Write a domain to the model repository, replacing version 1 of its networks.

    Args:
        description: what domain.json says; `default_fidelity` only where features are served.
        draw_faces: draws face crops to calibrate e4e on; None leaves the networks as they are.
        with_features: write the inverter and the feature editor, where they are trained.
    """
    name = description["name"]
    folder = repository / name
    folder.mkdir(parents=True, exist_ok=True)
    if draw_faces is not None:
        _replace_networks(trained, name, folder, draw_faces)
        shutil.copyfile(trained.runs / STATISTICS_FILE, folder / STATISTICS_FILE)
        _replace_mapping(trained, folder)
        # Those of another generator.
        shutil.rmtree(folder / wire.FEATURES.name, ignore_errors=True)
    if with_features and (trained.runs / EDITOR_FILE).exists():
        _replace_features(trained, name, folder)
    description = {k: v for k, v in description.items() if k != "default_fidelity"} | (
        _fidelities(description, folder)
    )
    write_domain_json(folder, description, trained.generator)
    model_repository.write_configs(repository, name)
    total = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {total / 1e6:.1f} MB in all", flush=True)


def _fidelities(description: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what domain.json says about FIDELITY."""
    if not model_repository.newest_version(folder / wire.FEATURES.name):
        return {}
    default = description.get("default_fidelity", limits.DEFAULT_FIDELITY)
    return {"fidelities": list(limits.FIDELITIES), "default_fidelity": default}


def _replace_mapping(trained: Trained, folder: Path) -> None:
    """Write the mapping network, in domains that have kept it."""
    if not (trained.runs / "mapping.pt").exists():
        return
    with np.load(trained.runs / STATISTICS_FILE) as statistics:
        w_avg = torch.from_numpy(statistics["w_avg"])
    write_mapping(folder, trained.generator.float(), w_avg, float16=True)


def _replace_features(trained: Trained, name: str, folder: Path) -> None:
    """Write the inverter and the feature editor to `folder` as version 1."""
    generator, encoder = trained.generator.float().eval(), trained.encoder
    if not (trained.runs / "mapping.pt").exists():
        load_served_mapping(generator, folder)
    inverter = build_inverter(generator, trained.tiny)
    editor = build_editor(generator, trained.tiny)
    require_weights(encoder, trained.runs / "encoder.pt")
    require_weights(inverter, trained.runs / INVERTER_FILE)
    require_weights(editor, trained.runs / EDITOR_FILE)
    networks = DomainNetworks(
        generator,
        encoder,
        build_clip(1),  # takes no part
        w_avg=None,
        w_center=torch.zeros(generator.w_dim),
        feature_editor=FeatureEditorCheckpoint(inverter, editor),
        sources=trained.hashes,
    )
    feature_export.check_compatible(networks)
    shutil.rmtree(folder / wire.FEATURES.name, ignore_errors=True)
    write_features(networks, folder, float16_weights=True)


@torch.no_grad()
def load_served_mapping(generator: Generator, folder: Path) -> None:
    """Load the mapping network that the domain in `folder` serves: bfloat16 is measured on its
    latents."""
    mapping = load_mapping(folder)
    if mapping.weights is None:
        return
    layers = (layer for layer in generator.style if isinstance(layer, EqualLinear))
    for layer, weight, bias in zip(layers, mapping.weights, mapping.biases, strict=True):
        layer.weight.copy_(torch.from_numpy(weight) / layer.scale)
        layer.bias.copy_(torch.from_numpy(bias) / layer.lr_mul)


def _replace_networks(trained: Trained, name: str, folder: Path, draw_faces: InputFactory) -> None:
    """Write each network to `folder` as version 1, in place of the present one."""
    origin = {"source": f"domains/{name}", "trained": trained.hashes}
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as partial:
        for variants in load_variants(trained, draw_faces):
            network = Path(partial, variants.name)
            network.mkdir()
            write_network(variants, network, origin, with_float16=False)
        for network in Path(partial).iterdir():
            shutil.rmtree(folder / network.name / "1", ignore_errors=True)
            model_repository.add_version(
                folder / network.name, {path.name: path for path in network.iterdir()}
            )
