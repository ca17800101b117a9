"""Conversion of a domain's networks into the model repository.

Each network is exported and compared with PyTorch in memory or in a temporary folder, and put in
place, as a new version beside the old ones, only when its differences are within bounds.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from styleclip_contract import wire
from styleclip_contract.wire import Model
from styleclip_export.checkpoints import dlib_landmarks
from styleclip_export.checkpoints.domain_files import DomainNetworks
from styleclip_export.convert import float16, onnx_export, onnx_forms, openvino_export
from styleclip_export.convert.compare import Reference, make_references
from styleclip_export.convert.random_inputs import (
    RandomInputs,
    random_faces,
    random_latents,
    random_tokens,
)
from styleclip_export.convert.wrappers import FaceToLatent, LatentToImage, TokensToFeatures
from styleclip_export.errors import ConversionError
from styleclip_networks.stylegan2 import Generator
from styleclip_server.engines.model_files import FLOAT16_FILE, MODEL_FILE
from styleclip_server.serving import model_repository

DOMAINS = Path(__file__).parent / "domains"
# Largest absolute differences from PyTorch in float32: pixel levels, and W+ and text features,
# whose standard deviation is about 1.
BOUNDS = {"stylegan2": 1.0, "e4e": 2e-4, "clip_text": 1e-4}

LANDMARKS = "shape_predictor_68_face_landmarks.dat"

Report = Callable[[str], None]


def describe(domain: str) -> dict[str, Any]:
    """Reads title, defaults, presets and licence of a known domain.

    Raises:
        ConversionError: no such domain is known.
    """
    path = DOMAINS / f"{domain}.json"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in DOMAINS.glob("*.json")))
        raise ConversionError(
            f"no domain {domain!r} is known, only {known}; another is a JSON file of the same "
            f"form in {DOMAINS.name}/"
        )
    return json.loads(path.read_text("utf-8"))  # type: ignore[no-any-return]


def domain_json(about: Mapping[str, Any], generator: Generator) -> dict[str, Any]:
    """Content of the served domain.json: `about` and the generator's sizes."""
    defaults = about["defaults"]
    return {
        "name": about["name"],
        "title": about["title"],
        "resolution": generator.resolution,
        "num_latents": generator.num_latents,
        "w_dim": generator.w_dim,
        "style_channels": list(generator.style_channels),
        "align": about["align"],
        "defaults": defaults,
        "presets": [{**defaults, **preset} for preset in about["presets"]],
        "licence": about["licence"],
    }


def place_landmarks(weights: Path, folder: Path, report: Report = print) -> None:
    """Copies dlib's landmark model from `weights`, if it is there, into the domain's `folder`.

    dlib trusts what it reads, so only the published file, plain or as .bz2, is accepted.
    """
    # No other names: an interrupted download leaves a `.part`.
    for path in filter(Path.is_file, (weights / LANDMARKS, weights / f"{LANDMARKS}.bz2")):
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as partial:
            placed = dlib_landmarks.install(path, Path(partial, LANDMARKS))
            if placed.published:
                placed.path.chmod(0o644)
                placed.path.replace(folder / LANDMARKS)
                report(f"{path.name}: landmarks of photos are read with it")
                return
        report(f"{path.name}: NOT the file that dlib published, left out")


def check_fit(networks: DomainNetworks) -> None:
    """Raises ConversionError if encoder and generator do not belong together."""
    generator, encoder = networks.generator, networks.encoder
    if encoder.num_latents != generator.num_latents or generator.w_dim != wire.W_DIM:
        raise ConversionError(
            f"the encoder gives {encoder.num_latents} latents, the generator of "
            f"{generator.resolution} px takes {generator.num_latents} of {generator.w_dim}: give "
            "checkpoints of the same domain"
        )


@dataclass(frozen=True)
class Forms:
    """The forms of a network, and random inputs to compare them on.

    Attributes:
        model: the served model: names of inputs and outputs.
        reference: the wrapper as PyTorch computes it, which is also what OpenVINO gets.
        onnxruntime: the wrapper as it is exported for ONNX Runtime.
        float16: the network in float16.
    """

    model: Model
    reference: nn.Module
    onnxruntime: nn.Module
    float16: float16.Float16Network
    random_inputs: RandomInputs


def network_forms(networks: DomainNetworks) -> list[Forms]:
    """The networks of a domain in the forms that are converted."""
    generator, encoder, clip, w_avg = (
        networks.generator, networks.encoder, networks.clip, networks.w_avg
    )  # fmt: skip
    in_float16 = float16.float16_networks(generator, encoder, clip, w_avg)
    return [
        Forms(
            wire.STYLEGAN2,
            LatentToImage(generator),
            LatentToImage(generator, onnx_forms.synthesis),
            in_float16["stylegan2"],
            random_latents(generator),
        ),
        Forms(
            wire.E4E,
            FaceToLatent(encoder, w_avg),
            FaceToLatent(encoder, w_avg, onnx_forms.encode),
            in_float16["e4e"],
            random_faces,
        ),
        Forms(
            wire.CLIP_TEXT,
            TokensToFeatures(clip),
            TokensToFeatures(clip, encode_text=onnx_forms.encode_text),
            in_float16["clip_text"],
            random_tokens,
        ),
    ]


def convert(
    networks: DomainNetworks,
    about: Mapping[str, Any],
    target: Path,
    *,
    sources: Mapping[str, str],
    only: tuple[str, ...] = (),
    torchscript: bool = False,
    with_float16: bool = True,
    report: Report = print,
) -> None:
    """Writes the networks of a domain as a new version into `target`/<domain name>.

    Args:
        about: see `describe`.
        sources: file name → SHA-256 of the checkpoints.
        only: names of networks to convert; empty means all.
        torchscript: also write StyleGAN2 and e4e as TorchScript.
        with_float16: also write each network in float16, for GPUs.
        report: called with each line of progress.

    Raises:
        ConversionError: the networks do not fit together, or one misses its bound; earlier
            versions stay as they are.
    """
    check_fit(networks)
    folder = target / about["name"]
    for forms in network_forms(networks):
        name = forms.model.name
        if only and name not in only:
            continue
        # Finished files wait on the disk: e4e's take 2.7 GB together.
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as partial:
            files = Path(partial)
            _write_files(forms, files, sources, torchscript, with_float16, report)
            sizes = [f"{p.name} {p.stat().st_size / 1e6:.0f} MB" for p in sorted(files.iterdir())
                     if p.suffix != ".json"]  # fmt: skip
            version = model_repository.add_version(
                folder / name, {p.name: p for p in files.iterdir()}
            )
        report(f"{name}: version {version}, {', '.join(sizes)}")
    text = json.dumps(domain_json(about, networks.generator), indent=2, ensure_ascii=False)
    model_repository.write_text(folder / "domain.json", text + "\n")
    model_repository.write_configs(target, about["name"])


def _write_files(
    forms: Forms,
    folder: Path,
    sources: Mapping[str, str],
    torchscript: bool,
    with_float16: bool,
    report: Report,
) -> None:
    """Writes all files of one network, and its provenance.json, into `folder`."""
    name = forms.model.name
    reference = forms.reference.eval()
    references = make_references(reference, forms.random_inputs)
    provenance = _write_onnx(forms, references, folder, sources, report)
    if torchscript and name != "clip_text":
        largest = _write_torchscript(forms, references, folder)
        provenance["torchscript"] = {"largest": largest}
        report(f"{name} as TorchScript: largest {largest:.2g} from PyTorch")
    if name in openvino_export.NETWORKS:
        provenance["openvino"] = openvino_export.write(
            folder, reference, forms.model, forms.random_inputs, references,
            forms.float16.accuracy, BOUNDS[name],
        )  # fmt: skip
        report(f"{name} in OpenVINO: {openvino_export.summary(provenance['openvino'])}")
    if with_float16:
        provenance["float16"] = _write_float16(forms, references, folder, report)
    (folder / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", "utf-8")


def _write_onnx(
    forms: Forms,
    references: Sequence[Reference],
    folder: Path,
    sources: Mapping[str, str],
    report: Report,
) -> dict[str, Any]:
    """Writes model.onnx and returns its provenance."""
    model = forms.model
    exported = onnx_export.export(
        forms.onnxruntime, model, forms.random_inputs, references, BOUNDS[model.name]
    )
    for c in exported.comparisons:
        report(
            f"{model.name}, batch {c.batch}: largest {c.largest:.2g}, mean {c.mean:.2g} from "
            "PyTorch"
        )
    (folder / MODEL_FILE).write_bytes(exported.data)
    return exported.provenance(sources=dict(sources))


def _write_float16(
    forms: Forms, references: Sequence[Reference], folder: Path, report: Report
) -> dict[str, Any]:
    """Writes the float16 file and returns its provenance."""
    accuracy = forms.float16.accuracy
    data, comparisons = float16.export(forms.float16, forms.model, forms.random_inputs, references)
    for c in comparisons:
        report(
            f"{forms.model.name} in float16, {c.runtime}: {accuracy.quantity} {c.value:.4g} "
            f"({accuracy.bound:g}), largest {c.largest:.2g}, mean {c.mean:.2g}"
        )
    (folder / FLOAT16_FILE).write_bytes(data)
    return float16.provenance(accuracy, comparisons)


@torch.no_grad()
def _write_torchscript(forms: Forms, references: Sequence[Reference], folder: Path) -> float:
    """Writes model.pt, the traced reference form; returns its largest difference."""
    inputs = forms.random_inputs(onnx_export.TRACED_BATCH)
    traced = torch.jit.trace(forms.reference.eval(), inputs, check_trace=False)
    traced = torch.jit.freeze(traced.eval())
    largest = 0.0
    for reference in references:
        error = traced(*reference.inputs).float() - torch.from_numpy(reference.expected).float()
        largest = max(largest, error.abs().max().item())
    bound = BOUNDS[forms.model.name]
    if not largest <= bound:
        raise ConversionError(f"TorchScript differs from PyTorch by {largest:.3g}, bound {bound:g}")
    torch.jit.save(traced, str(folder / "model.pt"))
    return largest
