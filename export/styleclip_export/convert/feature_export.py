"""The networks of StyleFeatureEditor as the two ONNX files of the model `features`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from styleclip_contract import wire
from styleclip_export.checkpoints.domain_files import DomainNetworks
from styleclip_export.convert import feature_openvino_export
from styleclip_export.convert.accuracy import BOUNDS
from styleclip_export.convert.feature_wrappers import (
    REFERENCE,
    FaceToFeatures,
    FeatureFunctions,
    FeaturesToImage,
)
from styleclip_export.convert.onnx_export import (
    TRACED_BATCH,
    share_weights,
    store_as_float16,
    to_onnx,
)
from styleclip_export.convert.onnx_feature_variants import ONNXRUNTIME
from styleclip_export.convert.random_inputs import latent_factory, random_faces
from styleclip_export.errors import ConversionError
from styleclip_export.progress import ReportLine
from styleclip_networks.sfe import FeatureFuser, Inverter
from styleclip_server.engines import features
from styleclip_server.engines.model_files import (
    FACE_TO_FEATURES_FILE,
    FEATURES_TO_IMAGE_FILE,
    MODEL_FILE,
    SHARED_WEIGHTS_FILE,
)
from styleclip_server.engines.shared_weights import Places, SharedWeights

RELATIVE_BOUND = 1e-4  # of latent and features, relative to the largest value they are sums of


def check_compatible(networks: DomainNetworks) -> None:
    """Raise ConversionError if the feature editor does not belong to encoder and generator."""
    inverter, _ = _feature_networks(networks)
    generator, (height, width) = networks.generator, networks.crop_size
    side = height // 4
    if networks.encoder is None or height != width:
        raise ConversionError("StyleFeatureEditor needs an encoder of square face crops")
    if generator.resolution <= side:
        raise ConversionError(
            f"StyleFeatureEditor replaces features of {side} px, which a generator of "
            f"{generator.resolution} px does not continue from"
        )
    channels = inverter.fuser.conv.out_channels
    latents = len(inverter.fs_backbone.styles) or generator.num_latents  # those of e4e
    if (latents, channels) != (generator.num_latents, generator.channels[side]):
        raise ConversionError(
            f"StyleFeatureEditor's networks give {latents} latents and {channels} features; the "
            f"generator of {generator.resolution} px takes {generator.num_latents} and "
            f"{generator.channels[side]}: give checkpoints of the same domain"
        )


@torch.no_grad()
def write(
    networks: DomainNetworks,
    folder: Path,
    float16_weights: bool,
    report: ReportLine,
    stylegan2: Path | None = None,
) -> dict[str, Any]:
    """Write both files into `folder`, and those of OpenVINO.

    Args:
        float16_weights: see `NetworkVariants`. The first graph's generator then lies in the second
            file, or both in that of `stylegan2`.
        stylegan2: the version folder of the generator, stored as float16 too.

    Returns:
        What provenance.json says about them.

    Raises:
        ConversionError: ONNX Runtime differs from PyTorch by more than the bound.
    """
    inverter, editor = _feature_networks(networks)
    generator = networks.generator
    w_avg = networks.w_center if networks.w_avg is None else networks.w_avg
    (faces,) = random_faces(TRACED_BATCH, networks.crop_size)
    w_plus, delta = latent_factory(generator)(TRACED_BATCH)

    for network in (inverter, editor, generator):
        network.eval()

    def build_first(functions: FeatureFunctions) -> nn.Module:
        return FaceToFeatures(inverter, editor, generator, w_avg, functions)

    own_latent = len(inverter.fs_backbone.styles) > 0

    def build_second(functions: FeatureFunctions) -> nn.Module:
        return FeaturesToImage(editor, generator, functions, own_latent=own_latent)

    edit = w_plus, delta, *build_first(REFERENCE)(faces, w_plus)
    # An editor that continues the generator's features subtracts them from the photo's.
    synthesized = generator.features(generator.affine(w_plus), int(edit[-1].shape[-1]))
    summand = float(synthesized.abs().max())
    provenance = {}
    shared: dict[str, Places] = {}
    first = FACE_TO_FEATURES_FILE, build_first, features.FACE_TO_FEATURES, (faces, w_plus), None
    second = (
        *(FEATURES_TO_IMAGE_FILE, build_second, features.FEATURES_TO_IMAGE, edit),
        BOUNDS["stylegan2"],
    )
    for file, build, model, inputs, bound in (second, first):
        graph = to_onnx(build(ONNXRUNTIME), model, inputs)
        if float16_weights:
            store_as_float16(graph)
        data = graph.SerializeToString()
        del graph
        errors = _compare(data, build(REFERENCE), model, inputs)
        for tensor, (difference, largest) in errors.items():
            limit = bound or RELATIVE_BOUND * max(largest, summand)
            if not difference <= limit:  # NaN fails too
                raise ConversionError(
                    f"{tensor} of {file} differs from PyTorch by {difference:.3g}, at most "
                    f"{limit:.3g} was expected; nothing was written"
                )
        if float16_weights:
            graph = onnx.load_from_string(data)
            if stylegan2:
                shared[file] = share_weights(graph, stylegan2 / MODEL_FILE)
            if file == FACE_TO_FEATURES_FILE:
                share_weights(graph, folder / FEATURES_TO_IMAGE_FILE)
            data = graph.SerializeToString()
        (folder / file).write_bytes(data)
        differences = {tensor: difference for tensor, (difference, _) in errors.items()}
        text = ", ".join(f"{tensor} {value:.2g}" for tensor, value in differences.items())
        report(f"{file}, {len(data) / 1e6:.0f} MB: largest differences from PyTorch: {text}")
        provenance[file] = {"sha256": hashlib.sha256(data).hexdigest(), "errors": differences}
    graphs = [
        feature_openvino_export.FeatureGraph(
            file, build(feature_openvino_export.OPENVINO), model, inputs
        )
        for file, build, model, inputs, _ in (first, second)
    ]
    openvino, shared_in_openvino = feature_openvino_export.write(
        graphs, networks, folder, float16_weights, report, stylegan2
    )
    provenance["openvino"] = openvino
    shared |= shared_in_openvino
    if stylegan2 and shared:
        path = Path("../..", *stylegan2.parts[-2:], MODEL_FILE)
        sha256 = hashlib.sha256((stylegan2 / MODEL_FILE).read_bytes()).hexdigest()
        SharedWeights(path.as_posix(), sha256, shared).write(folder / SHARED_WEIGHTS_FILE)
    return provenance


def _feature_networks(networks: DomainNetworks) -> tuple[Inverter, FeatureFuser]:
    checkpoint = networks.feature_editor
    assert checkpoint and checkpoint.editor, "the domain has a feature editor"
    return checkpoint.inverter, checkpoint.editor


def _compare(
    data: bytes, module: nn.Module, model: wire.Model, inputs: Sequence[Tensor]
) -> dict[str, tuple[float, float]]:
    """Return each output's largest difference from PyTorch, and its largest value.

    Row by row, as the server computes them.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(data, options, ["CPUExecutionProvider"])
    read = {entry.name for entry in session.get_inputs()}
    results = {tensor.name: (0.0, 0.0) for tensor in model.outputs}
    for i in range(len(inputs[0])):
        row = [x[i : i + 1] for x in inputs]
        named = zip(model.inputs, row, strict=True)
        feed = {t.name: x.numpy() for t, x in named if t.name in read}
        expected = module(*row)
        expected = expected if isinstance(expected, tuple) else (expected,)
        outputs = session.run(None, feed)
        for tensor, ours, theirs in zip(model.outputs, outputs, expected, strict=True):
            reference = theirs.numpy().astype(np.float32)
            difference = np.abs(ours.astype(np.float32) - reference).max()
            before, largest = results[tensor.name]
            results[tensor.name] = (
                float(np.maximum(before, difference)),
                max(largest, float(np.abs(reference).max())),
            )
    return results
