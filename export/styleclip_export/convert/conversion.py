"""Checkpoints → the networks of a domain in the model repository.

Everything is read, converted and compared with PyTorch in memory or in a temporary folder, and put
in place only when it held its bound: a new version beside the old ones.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from styleclip_contract import wire
from styleclip_contract.wire import Model
from styleclip_export.checkpoints import dlib_landmarks
from styleclip_export.checkpoints.domain_files import DomainNetworks
from styleclip_export.convert import float16, onnx_export, openvino_export
from styleclip_export.errors import ConversionError
from styleclip_networks.stylegan2 import Generator
from styleclip_server.engines.flavours import FLOAT16_FILE, MODEL_FILE
from styleclip_server.serving import model_repository

DOMAINS = Path(__file__).parent / "domains"
# Largest differences of ONNX Runtime from PyTorch: pixel levels, and W+ and features whose
# deviation is about 1.
BOUNDS = {"stylegan2": 1.0, "e4e": 2e-4, "clip_text": 1e-4}

LANDMARKS = "shape_predictor_68_face_landmarks.dat"

Told = Callable[[str], None]


def describe(domain: str) -> dict[str, Any]:
    """What a known domain says of itself: title, defaults, presets, licence.

    Raises:
        ConversionError: there is no such domain.
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
    """The served domain.json: `about` and the generator's sizes."""
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


def place_landmarks(weights: Path, folder: Path, told: Told = print) -> None:
    """Puts dlib's landmark model, if it is among the `weights`, where the server looks for it.

    dlib trusts what it reads, so only the published file, whole or as .bz2, is taken.
    """
    # No other names: an interrupted download has left a `.part`.
    for path in filter(Path.is_file, (weights / LANDMARKS, weights / f"{LANDMARKS}.bz2")):
        with tempfile.TemporaryDirectory(dir=folder, prefix=".part-") as partial:
            placed = dlib_landmarks.place(path, Path(partial, LANDMARKS))
            if placed.published:
                placed.path.chmod(0o644)
                placed.path.replace(folder / LANDMARKS)
                told(f"{path.name}: landmarks of photos are read with it")
                return
        told(f"{path.name}: NOT the file that dlib published, left out")


def check_fit(networks: DomainNetworks) -> None:
    """Raises ConversionError when encoder and generator do not belong together."""
    generator, encoder = networks.generator, networks.encoder
    if encoder.num_latents != generator.num_latents or generator.w_dim != wire.W_DIM:
        raise ConversionError(
            f"the encoder gives {encoder.num_latents} latents, the generator of "
            f"{generator.resolution} px takes {generator.num_latents} of {generator.w_dim}: give "
            "checkpoints of the same domain"
        )


def modules(networks: DomainNetworks) -> dict[str, tuple[Model, Callable[[], nn.Module], Any]]:
    """Name → (model, its wrapper, its random inputs)."""
    generator = networks.generator
    return {
        "stylegan2": (
            wire.STYLEGAN2,
            lambda: onnx_export.LatentToPicture(generator),
            onnx_export.random_latents(generator),
        ),
        "e4e": (
            wire.E4E,
            lambda: onnx_export.FaceToLatent(networks.encoder, networks.w_avg),
            onnx_export.random_faces,
        ),
        "clip_text": (
            wire.CLIP_TEXT,
            lambda: onnx_export.TokensToFeatures(networks.clip),
            onnx_export.random_tokens,
        ),
    }


def convert(
    networks: DomainNetworks,
    about: Mapping[str, Any],
    target: Path,
    *,
    sources: Mapping[str, str],
    only: tuple[str, ...] = (),
    torchscript: bool = False,
    halved: bool = True,
    told: Told = print,
) -> None:
    """Writes the networks of a domain as a new version into `target`/<domain name>.

    Args:
        about: see `describe`.
        sources: file name → SHA-256 of what the networks were read from.
        only: names of networks; empty means all.
        torchscript: write StyleGAN2 and e4e as TorchScript, too.
        halved: write each network in float16, too, for GPUs (see `float16`).

    Raises:
        ConversionError: networks do not fit together, or one misses its bound; what is served
            stays as it is.
    """
    check_fit(networks)
    folder = target / about["name"]
    halves = float16.networks(networks.generator, networks.encoder, networks.clip, networks.w_avg)
    for name, (model, wrapper, example) in modules(networks).items():
        if only and name not in only:
            continue
        # Finished files wait on the disk: e4e's take 2.7 GB together.
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".part-", dir=folder) as waiting:
            files = Path(waiting)
            module = wrapper().eval()
            references = onnx_export.make_references(module, example)
            provenance = _onnx(module, model, example, references, files, sources, told)
            if torchscript and name != "clip_text":
                worst = _torchscript(module, example, references, files, BOUNDS[name])
                provenance["torchscript"] = {"largest": worst}
                told(f"{name} as TorchScript: largest {worst:.2g} from PyTorch")
            if isinstance(module, openvino_export.MODULES):
                made = openvino_export.write(
                    files, module, model, example, references, halves[name], BOUNDS[name]
                )
                provenance["openvino"] = made
                told(f"{name} in OpenVINO: {openvino_export.told(made)}")
            del module
            if halved:
                provenance["float16"] = _half(halves[name], model, example, references, files, told)
            sizes = [f"{p.name} {p.stat().st_size / 1e6:.0f} MB" for p in sorted(files.iterdir())]
            (files / "provenance.json").write_text(json.dumps(provenance, indent=2) + "\n", "utf-8")
            version = model_repository.add_version(
                folder / name, {p.name: p for p in files.iterdir()}
            )
        told(f"{name}: version {version}, {', '.join(sizes)}")
    text = json.dumps(domain_json(about, networks.generator), indent=2, ensure_ascii=False)
    model_repository.write_text(folder / "domain.json", text + "\n")
    model_repository.write_configs(target, about["name"])


Example = Callable[[int], tuple[Tensor, ...]]
References = Sequence[onnx_export.Reference]


def _onnx(
    module: nn.Module, model: Model, example: Example, references: References, folder: Path,
    sources: Mapping[str, str], told: Told,
) -> dict[str, Any]:  # fmt: skip
    """Writes model.onnx; its provenance."""
    exported = onnx_export.export(module, model, example, BOUNDS[model.name], references=references)
    for c in exported.comparisons:
        told(
            f"{model.name}, batch {c.batch}: largest {c.largest:.2g}, mean {c.mean:.2g} from "
            "PyTorch"
        )
    (folder / MODEL_FILE).write_bytes(exported.data)
    return exported.provenance(sources=dict(sources))


def _half(
    network: float16.Half, model: Model, example: Example, references: References, folder: Path,
    told: Told,
) -> dict[str, Any]:  # fmt: skip
    """Writes the float16 file; how far it is from float32."""
    data, found = float16.export(network, model, example, references)
    for h in found:
        told(
            f"{model.name} in float16, {h.runtime}: {network.quantity} {h.value:.4g} "
            f"({network.bound:g}), largest {h.largest:.2g}, mean {h.mean:.2g}"
        )
    (folder / FLOAT16_FILE).write_bytes(data)
    return float16.provenance(network, found)


@torch.no_grad()
def _torchscript(
    module: nn.Module, example: Example, references: References, folder: Path, bound: float
) -> float:
    """Writes model.pt, the traced `module`; its largest difference from the `references`."""
    traced = torch.jit.freeze(torch.jit.trace(module, example(2), check_trace=False).eval())
    worst = 0.0
    for reference in references:
        found = traced(*reference.inputs).float() - torch.from_numpy(reference.expected).float()
        worst = max(worst, found.abs().max().item())
    if not worst <= bound:
        raise ConversionError(f"TorchScript differs from PyTorch by {worst:.3g}, bound {bound:g}")
    torch.jit.save(traced, str(folder / "model.pt"))
    return worst
