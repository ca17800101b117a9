"""A domain of full size with random weights, to measure speed without the published ones.

`python -m tools.bench.random_domain model_repository/random`, then `make serve DOMAIN=random`. It
has the sizes and files of the domain ffhq, as `styleclip-export convert --no-half` writes them.
Random weights draw noise, whose JPEG of quality 95 has 1.3 MB where a face has about 0.4. So toRGB
is damped, more at higher resolutions, until an image has the file size of a face: the time to
encode and send it depends on that.

With `--weights-only` it takes seconds: the networks' files have weights but no operators, which is
enough for `--networks torch`. With `--features` it has StyleFeatureEditor's networks, which return
the generator's own features.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from rich.console import Console
from torch import nn

from styleclip_contract import limits, wire
from styleclip_export.checkpoints.domain_files import DomainNetworks
from styleclip_export.checkpoints.feature_editors import FeatureEditorCheckpoint
from styleclip_export.convert import conversion
from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.sfe import FeatureFuser, Inverter
from styleclip_networks.stylegan2 import Generator
from styleclip_server.engines.model_files import (
    FACE_TO_FEATURES_FILE,
    FEATURES_TO_IMAGE_FILE,
    MODEL_FILE,
)
from styleclip_server.pipeline.style_statistics import convolution_channels

DAMPING = 0.4  # toRGB is scaled by resolution ** -DAMPING


def build_networks(features: bool = False) -> DomainNetworks:
    """Build generator, encoder and CLIP's text encoder of the published sizes.

    Args:
        features: also StyleFeatureEditor's.
    """
    torch.manual_seed(0)
    generator = Generator()
    for name, parameter in generator.named_parameters():
        if name.endswith("noise.weight"):
            parameter.data.fill_(0.1)
    for layer in generator.layers:
        if layer.to_rgb:
            weight = generator.get_submodule(layer.name).conv.weight
            weight.data *= (4 / layer.resolution) ** DAMPING
    w_avg = 0.1 * torch.randn(generator.num_latents, generator.w_dim)
    clip = CLIP(vision_layers=1, vision_width=64, vision_heads=1)  # images are not encoded
    encoder = Encoder4Editing()
    feature_editor = None
    modules = [generator, encoder, clip]
    if features:
        inverter, editor = Inverter(), FeatureFuser()
        inverter.fuser.set_weighted_sum(0.0, 1.0)
        editor.set_weighted_sum(1.0, -1.0)
        feature_editor = FeatureEditorCheckpoint(inverter, editor)
        modules += [inverter, editor]
    for module in modules:
        module.eval().requires_grad_(False)
    return DomainNetworks(
        generator, encoder, clip, w_avg, w_avg.mean(0), feature_editor=feature_editor
    )


def write_weights(networks: DomainNetworks, folder: Path) -> None:
    """Write each network's parameters to `folder`, under the names that a conversion gives them."""
    prefixed = {
        wire.STYLEGAN2: ("generator.", networks.generator),
        wire.E4E: ("encoder.", networks.encoder),
        wire.CLIP_TEXT: ("clip.", networks.clip),
    }
    w_avg = networks.w_avg.numpy()
    for model, (prefix, module) in prefixed.items():
        arrays = _arrays(module, prefix)
        if model is wire.E4E:
            arrays["w_avg"] = w_avg
        _write_graph(folder / model.name / "1" / MODEL_FILE, arrays)
    if networks.feature_editor:
        version = folder / wire.FEATURES.name / "1"
        _write_graph(
            version / FACE_TO_FEATURES_FILE,
            {**_arrays(networks.feature_editor.inverter, "inverter."), "w_avg": w_avg},
        )
        _write_graph(
            version / FEATURES_TO_IMAGE_FILE, _arrays(networks.feature_editor.editor, "editor.")
        )


def _arrays(module: nn.Module, prefix: str) -> dict[str, NDArray[np.generic]]:
    return {prefix + name: value.numpy() for name, value in module.state_dict().items()}


def _write_graph(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    weights = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph([], path.parent.parent.name, [], [], weights)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph), path)


def random_statistics(style_channels: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Draw random directions of unit length."""
    random = np.random.default_rng(0)
    size, rows = sum(style_channels), len(convolution_channels(style_channels))
    fs3 = random.standard_normal((rows, 512)).astype(np.float32)
    return {
        "style_mean": np.ones(size, np.float32),
        "style_std": np.full(size, 0.1, np.float32),
        "fs3": fs3 / np.linalg.norm(fs3, axis=1, keepdims=True),
    }


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--weights-only", is_flag=True, help="Write no operators: for --networks torch.")
@click.option("--features", is_flag=True, help="Write StyleFeatureEditor's networks too.")
def main(folder: Path, weights_only: bool, features: bool) -> None:
    """Write a domain of full size with random weights to FOLDER."""
    console = Console()
    random_networks = build_networks(features)
    description = conversion.describe("ffhq", random_networks.generator, {})
    description |= {"name": folder.name, "title": "random weights, 1024 px"}
    if weights_only:
        if features:
            description["fidelities"] = list(limits.FIDELITIES)
        write_weights(random_networks, folder)
        conversion.write_mapping(folder, random_networks.generator, random_networks.w_center)
        conversion.write_domain_json(folder, description, random_networks.generator)
    else:
        with console.status("converting"):
            conversion.convert(
                random_networks, description, folder.parent, with_float16=False,
                report=lambda line: console.print(line, highlight=False),
            )  # fmt: skip
    np.savez(
        folder / "statistics.npz", **random_statistics(random_networks.generator.style_channels)
    )


if __name__ == "__main__":
    main()
