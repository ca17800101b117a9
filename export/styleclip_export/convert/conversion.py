"""Conversion of a domain's networks into the model repository.

Each network is converted into a temporary folder and compared with PyTorch; it is added as a new
version, beside the old ones, only if all its differences are within bounds.
"""

from __future__ import annotations

import json
import re
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from styleclip_contract import limits, wire
from styleclip_contract.domain import DOMAIN_FILE
from styleclip_export.checkpoints import dlib_landmarks
from styleclip_export.checkpoints.domain_files import DomainNetworks
from styleclip_export.convert import (
    feature_export,
    float16_export,
    onnx_export,
    openvino_export,
    torchscript_export,
)
from styleclip_export.convert.comparison import compute_references
from styleclip_export.convert.network_variants import NetworkVariants, build_variants
from styleclip_export.domains import DOMAINS, known_domains
from styleclip_export.errors import ConversionError
from styleclip_export.npz_files import save_npz
from styleclip_export.progress import ReportLine
from styleclip_networks.stylegan2 import EqualLinear, Generator
from styleclip_server.files import write_atomically
from styleclip_server.pipeline.landmarks import LANDMARK_MODEL
from styleclip_server.pipeline.random_latents import MAPPING_FILE
from styleclip_server.serving import model_repository

# How long all files of a network take, compared with its references, measured on two cores.
_RELATIVE_DURATIONS = {"stylegan2": 3.5, "e4e": 4.5, "clip_text": 3.0}

_FIDELITY_KEYS = ("fidelities", "default_fidelity")


def check_name(domain: str) -> None:
    """Raise ConversionError if a domain cannot have the name."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", domain) or domain == "steps":
        raise ConversionError(
            f"{domain!r} cannot be the name of a domain: letters, digits, '.', '-' and '_' are "
            "expected, and not 'steps'"
        )


def describe(domain: str, generator: Generator, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return title, defaults, presets and license of a domain.

    Args:
        overrides: title, neutral and align that replace the shipped or default ones; None and False
            are ignored.
    """
    if domain in known_domains():
        description = json.loads((DOMAINS / domain / DOMAIN_FILE).read_text("utf-8"))
    else:
        resolution = generator.resolution
        description = {
            "name": domain,
            "title": f"{domain}, {resolution} x {resolution}",
            "align": False,
            "defaults": {"neutral": "a photo", "strength": 4.0, "threshold": 0.13},
            "presets": [],
            "license": "see the licenses of the networks that it was converted from",
        }
    if overrides.get("title"):
        description["title"] = overrides["title"]
    if overrides.get("neutral"):
        description["defaults"]["neutral"] = overrides["neutral"]
    if overrides.get("align"):
        description["align"] = True
    return description


def convert(
    networks: DomainNetworks,
    description: Mapping[str, Any],
    repository: Path,
    *,
    only: tuple[str, ...] = (),
    with_torchscript: bool = False,
    with_float16: bool = True,
    report: ReportLine = print,
) -> None:
    """Add the networks of a domain as a new version to `repository`/<domain name>.

    Args:
        description: see `describe`.
        only: names of networks to convert; empty means all.
        with_torchscript: also write StyleGAN2 and e4e as TorchScript.
        with_float16: also write each network in float16, for GPUs.
        report: called with each line of progress.

    Raises:
        ConversionError: the networks do not fit together, or one misses its bound; earlier
            versions stay as they are.
    """
    check_compatible(networks)
    folder = repository / description["name"]
    folder.mkdir(parents=True, exist_ok=True)
    crop_size = tuple(description.get("crop_size", networks.crop_size))
    for variants in build_variants(networks, crop_size):
        name = variants.name
        if only and name not in only:
            continue
        # Finished files wait on the disk: e4e's take 2.7 GB together.
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as partial:
            write_network(
                variants,
                Path(partial),
                {"sources": networks.sources},
                with_torchscript=with_torchscript,
                with_float16=with_float16,
                report=report,
            )
            files = sorted(Path(partial).iterdir())
            sizes = [f"{p.name} {p.stat().st_size / 1e6:.0f} MB" for p in files
                     if p.suffix != ".json"]  # fmt: skip
            version = model_repository.add_version(folder / name, {p.name: p for p in files})
        report(f"{name}: version {version}, {', '.join(sizes)}")
    if networks.feature_editor and (not only or wire.FEATURES.name in only):
        write_features(networks, folder, report=report)
    if networks.encoder is None and not (folder / wire.E4E.name).is_dir():
        model_repository.add_missing_encoder(folder)
    write_mapping(folder, networks.generator, networks.w_center)
    photos = networks.encoder is not None
    description = {**description, "photos": photos, "crop_size": list(crop_size)}
    description |= _fidelities(folder, networks, bool(only))
    write_domain_json(folder, description, networks.generator)
    model_repository.write_configs(repository, description["name"])


def check_compatible(networks: DomainNetworks) -> None:
    """Raise ConversionError if the networks do not belong together."""
    generator, encoder = networks.generator, networks.encoder
    if generator.w_dim != wire.W_DIM:
        raise ConversionError(
            f"the generator's latents have {generator.w_dim} numbers, and only {wire.W_DIM} are "
            "supported"
        )
    if encoder and encoder.num_latents != generator.num_latents:
        raise ConversionError(
            f"the encoder gives {encoder.num_latents} latents, the generator of "
            f"{generator.resolution} px takes {generator.num_latents} of {generator.w_dim}: give "
            "checkpoints of the same domain"
        )
    if networks.feature_editor:
        feature_export.check_compatible(networks)


def _fidelities(folder: Path, networks: DomainNetworks, partial: bool) -> dict[str, Any]:
    """Return what domain.json says about FIDELITY.

    After a complete conversion without a feature editor, nothing: the networks of an earlier one
    may belong to another generator.

    Args:
        partial: whether only some networks were converted, which leaves the others in use.
    """
    path = folder / DOMAIN_FILE
    former = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    kept = {key: former[key] for key in _FIDELITY_KEYS if key in former}
    if networks.feature_editor and model_repository.newest_version(folder / wire.FEATURES.name):
        return {**kept, "fidelities": list(limits.FIDELITIES)}
    return kept if partial else {}


def write_features(
    networks: DomainNetworks,
    folder: Path,
    *,
    float16_weights: bool = False,
    report: ReportLine = print,
) -> None:
    """Add the networks that edit features as a new version to a domain's folder.

    Args:
        float16_weights: see `NetworkVariants`; the generator's then lie in the newest `stylegan2`.
    """
    generator = folder / wire.STYLEGAN2.name
    newest = model_repository.newest_version(generator)
    stylegan2 = generator / str(newest) if float16_weights and newest else None
    with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as partial:
        provenance = feature_export.write(
            networks, Path(partial), float16_weights, report, stylegan2
        )
        provenance = {"sources": networks.sources, **provenance}
        Path(partial, "provenance.json").write_text(
            json.dumps(provenance, indent=2) + "\n", "utf-8"
        )
        files = {path.name: path for path in Path(partial).iterdir()}
        version = model_repository.add_version(folder / wire.FEATURES.name, files)
    report(f"{wire.FEATURES.name}: version {version}")


def write_network(
    variants: NetworkVariants,
    folder: Path,
    origin: Mapping[str, Any],
    *,
    with_torchscript: bool = False,
    with_float16: bool = True,
    report: ReportLine = print,
) -> None:
    """Write the files of one network and their provenance.json into `folder`.

    Args:
        origin: what provenance.json says about the checkpoints.

    Raises:
        ConversionError: a file misses its bound.
    """
    start = time.monotonic()
    references = compute_references(variants.reference.eval(), variants.draw_inputs)
    seconds = time.monotonic() - start
    left = _RELATIVE_DURATIONS.get(variants.name, 1.0) * seconds
    report(f"{variants.name}: computed in PyTorch in {seconds:.0f} s; the rest: about {left:.0f} s")
    arguments = variants, references, folder, report
    provenance: dict[str, Any] = {**origin, **onnx_export.write(*arguments)}
    if with_torchscript and variants.name in torchscript_export.NETWORKS:
        provenance["torchscript"] = torchscript_export.write(*arguments)
    if variants.name in openvino_export.NETWORKS:
        provenance["openvino"] = openvino_export.write(*arguments)
    if with_float16:
        provenance["float16"] = float16_export.write(*arguments)
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", "utf-8")


def write_domain_json(folder: Path, description: Mapping[str, Any], generator: Generator) -> None:
    """Write the served domain's domain.json: `description` and the generator's sizes.

    The list of named directions stays.
    """
    defaults = description["defaults"]
    path = folder / DOMAIN_FILE
    former = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    content = {
        "name": description["name"],
        "title": description["title"],
        "resolution": generator.resolution,
        "num_latents": generator.num_latents,
        "w_dim": generator.w_dim,
        "style_channels": list(generator.style_channels),
        "crop_size": description.get("crop_size", [wire.FACE_SIZE, wire.FACE_SIZE]),
        "align": description["align"],
        "photos": description.get("photos", True),
        "defaults": defaults,
        "presets": [{**defaults, **preset} for preset in description["presets"]],
        "directions": former.get("directions", []),
        "license": description["license"],
        **{key: description[key] for key in _FIDELITY_KEYS if key in description},
    }
    text = json.dumps(content, indent=2, ensure_ascii=False)
    write_atomically(path, text + "\n")


@torch.no_grad()
def write_mapping(
    folder: Path, generator: Generator, w_center: torch.Tensor, *, float16: bool = False
) -> None:
    """Write the served domain's mapping network, by which seeds become latents.

    Args:
        w_center: (w_dim,), the average latent.
        float16: store half the bytes, and compress them.
    """
    layers = [layer for layer in generator.style if isinstance(layer, EqualLinear)]
    arrays = {
        "weights": np.stack([(layer.weight * layer.scale).numpy() for layer in layers]),
        "biases": np.stack([(layer.bias * layer.lr_mul).numpy() for layer in layers]),
        "w_avg": w_center.numpy(),
    }
    if float16:
        arrays = {name: array.astype(np.float16) for name, array in arrays.items()}
    save_npz(folder / MAPPING_FILE, arrays, compressed=float16)


def install_landmarks(weights: Path, folder: Path, report: ReportLine = print) -> None:
    """Copy dlib's landmark model from `weights`, if it is there, into the domain's `folder`.

    dlib trusts what it reads, so only the published file, plain or as .bz2, is accepted.
    """
    # No other names: an interrupted download leaves a `.part`.
    paths = (weights / LANDMARK_MODEL, weights / f"{LANDMARK_MODEL}.bz2")
    for path in filter(Path.is_file, paths):
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as partial:
            installed = dlib_landmarks.install(path, Path(partial, LANDMARK_MODEL))
            if installed.published:
                installed.path.chmod(0o644)
                installed.path.replace(folder / LANDMARK_MODEL)
                report(f"{path.name}: installed as the landmark model")
                return
        report(f"{path.name}: not the file that dlib published: skipped")
