"""The graphs of the model `features` for OpenVINO, for CPUs that multiply bfloat16.

OpenVINO gets the reference, and as much bfloat16 as the images allow (see `openvino_export`). Its
files have no large weights: they lie in the ONNX files of the same folder. Those of a generator in
another folder are inputs of the graphs, which who loads them replaces by constants.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper
from torch import Tensor, nn

from styleclip_contract import wire
from styleclip_contract.wire import FACE_CROP, W_PLUS
from styleclip_export.checkpoints.domain_files import DomainNetworks
from styleclip_export.convert.accuracy import BOUNDS, MIN_PSNR, psnr
from styleclip_export.convert.comparison import compare
from styleclip_export.convert.feature_wrappers import FeatureFunctions, encode
from styleclip_export.convert.onnx_export import share_weights, store_as_float16, to_onnx
from styleclip_export.convert.openvino_export import FLOAT32, summarize
from styleclip_export.convert.random_inputs import latent_factory
from styleclip_export.convert.wrappers import FaceToLatent
from styleclip_export.progress import ReportLine
from styleclip_networks.stylegan2 import Generator
from styleclip_server.engines import features
from styleclip_server.engines.cpu import supports_bfloat16
from styleclip_server.engines.model_files import (
    FACE_TO_FEATURES_FILE,
    FEATURES_TO_IMAGE_FILE,
    MODEL_FILE,
    OPENVINO_FEATURE_FILES,
)
from styleclip_server.engines.openvino import (
    METADATA_KEY,
    OpenvinoNetwork,
    PrecisionPart,
    PrecisionPlan,
)
from styleclip_server.engines.shared_weights import Places, read_places

OPENVINO = FeatureFunctions(encode)
FACES = 4  # on which bfloat16 is measured, half of them edited
BOUND = 2 * BOUNDS["stylegan2"]  # levels in float32; features are rounded between the graphs
BFLOAT16 = [PrecisionPart("bf16")]
Arrays = Mapping[str, NDArray[Any]]
Plans = Mapping[str, PrecisionPlan]


@dataclass(frozen=True)
class FeatureGraph:
    """One of the two graphs.

    Attributes:
        file: that of ONNX Runtime, in which its weights are.
        module: the network, by the functions OPENVINO.
        inputs: to trace it with.
    """

    file: str
    module: nn.Module
    model: wire.Model
    inputs: Sequence[Tensor]


@torch.no_grad()
def write(
    graphs: Sequence[FeatureGraph],
    networks: DomainNetworks,
    folder: Path,
    float16_weights: bool,
    report: ReportLine,
    stylegan2: Path | None,
) -> tuple[dict[str, Any], dict[str, Places]]:
    """Write OPENVINO_FEATURE_FILES beside the files of ONNX Runtime in `folder`.

    Args:
        graphs: the first and the second.
        float16_weights, stylegan2: see `feature_export.write`.

    Raises:
        ConversionError: images in float32 differ from PyTorch's by more than the bound.

    Returns:
        What provenance.json says about them, and by file the weights that lie in `stylegan2`; both
        are empty if OpenVINO is not installed.
    """
    if not find_spec("openvino"):
        report("features in OpenVINO: skipped, as it is not installed")
        return {}, {}
    protos, runs, shared = {}, {}, {}
    for graph in graphs:
        proto = to_onnx(graph.module, graph.model, tuple(graph.inputs))
        if float16_weights:
            store_as_float16(proto)
        path, weights = folder / OPENVINO_FEATURE_FILES[graph.file], {}
        if stylegan2:
            shared[path.name] = _to_inputs(proto, stylegan2 / MODEL_FILE)
            weights = read_places((stylegan2 / MODEL_FILE).read_bytes(), shared[path.name])
        for file in (FEATURES_TO_IMAGE_FILE, FACE_TO_FEATURES_FILE):
            share_weights(proto, folder / file)
        path.write_bytes(proto.SerializeToString())
        protos[graph.file] = proto
        runs[graph.file] = _runner(path, weights)
    plans = bfloat16_plans(protos[FEATURES_TO_IMAGE_FILE], networks.generator)
    provenance = _choose_plans(graphs, runs, plans, _draw_faces(networks))
    for file, proto in protos.items():
        path = folder / OPENVINO_FEATURE_FILES[file]
        result = provenance["files"][path.name]
        helper.set_model_props(proto, {METADATA_KEY: json.dumps(result["plan"])})
        path.write_bytes(proto.SerializeToString())
        report(f"{path.name}: {summarize({**result, 'float32': provenance['float32']})}")
    return provenance, shared


Run = Callable[[Arrays, PrecisionPlan], list[NDArray[Any]]]


def _runner(path: Path, weights: Arrays) -> Run:
    """Return a function that runs a file on inputs by name, by a plan."""

    def run(inputs: Arrays, plan: PrecisionPlan) -> list[NDArray[Any]]:
        network = OpenvinoNetwork(path, plan=plan, weights=weights)
        return network({name: inputs[name] for name in network.inputs})

    return run


def _to_inputs(graph: onnx.ModelProto, other: Path) -> Places:
    """Make inputs of those weights that the ONNX file `other` has too; return where it has them."""
    places = share_weights(graph, other)
    weights = [tensor for tensor in graph.graph.initializer if tensor.name in places]
    for tensor in weights:
        graph.graph.initializer.remove(tensor)
        graph.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
    return places


def _draw_faces(networks: DomainNetworks) -> dict[str, Tensor]:
    """Return inputs of both graphs: generated faces, e4e's latents of them, and edits."""
    generator, encoder = networks.generator, networks.encoder
    assert encoder is not None
    w_plus, delta = latent_factory(generator)(FACES)
    delta[: FACES // 2] = 0
    to_latent = FaceToLatent(encoder, networks.w_avg).eval()
    faces, latents = [], []
    for w in w_plus[:, :1].expand_as(w_plus).split(1):
        image = generator.synthesis(generator.affine(w)).clamp(-1, 1)
        faces.append(nn.functional.interpolate(image, networks.crop_size, mode="area"))
        latents.append(to_latent(faces[-1]))
    return {
        FACE_CROP.name: torch.cat(faces),
        W_PLUS.name: torch.cat(latents),
        wire.DELTA.name: delta,
    }


def bfloat16_plans(graph: onnx.ModelProto, generator: Generator) -> Plans:
    """Return the ways to use bfloat16 in the second graph, the fastest first.

    Returns:
        a description such as "everywhere" → the plan.
    """
    outputs = {node.name: node.output[0] for node in graph.graph.node}
    # Each layer's style is the sum of a part of DELTA and what e4e's latent, then the inverter's
    # gives; the generator reads the last one.
    styles = {}
    for node in graph.graph.node:
        part = re.search(r"/Split_output_(\d+)", " ".join(node.input))
        if node.op_type == "Add" and part:
            styles[int(part[1])] = node.output[0]
    (shape,) = (
        entry.type.tensor_type.shape
        for entry in graph.graph.input
        if entry.name == features.FEATURES.name
    )
    side = int(shape.dim[-1].dim_value)
    # What the editor and the later layers read: features, RGB, and styles. The editor's first layer
    # is all in this graph, or what of it depends on the edit is.
    joined = outputs.get("/conv/Conv", outputs["/Sub"])
    ends = [joined, outputs[f"/to_rgbs.{side.bit_length() - 4}/Add_1"]]
    ends += [styles[i] for i, x in enumerate(generator.layers) if x.resolution > side]
    return {
        "everywhere": BFLOAT16,
        "from the feature editor on": [PrecisionPart("f32", ends), *BFLOAT16],
    }


def _choose_plans(
    graphs: Sequence[FeatureGraph],
    runs: Mapping[str, Run],
    plans: Plans,
    faces: Mapping[str, Tensor],
) -> dict[str, Any]:
    """Choose the second graph's plan, then the first's, by the images that PyTorch computes."""
    first, second = graphs
    rows = [{name: x[i : i + 1] for name, x in faces.items()} for i in range(FACES)]
    exact = [first.module(row[FACE_CROP.name], row[W_PLUS.name]) for row in rows]
    known = {name: x.numpy() for name, x in faces.items()}
    known |= _features([torch.cat(column).numpy() for column in zip(*exact, strict=True)])
    expected = np.concatenate(
        [
            second.module(
                *(torch.from_numpy(known[t.name][i : i + 1]) for t in second.model.inputs)
            )
            for i in range(FACES)
        ]
    )

    def draw(first_plan: PrecisionPlan, second_plan: PrecisionPlan) -> NDArray[np.uint8]:
        inputs = known | _features(runs[first.file](known, first_plan))
        return runs[second.file](inputs, second_plan)[0]

    float32 = compare(draw(FLOAT32, FLOAT32), expected)
    float32.check(BOUND, "an edit of features in OpenVINO")
    late = _choose(plans, lambda plan: psnr(draw(FLOAT32, plan), expected))
    everywhere = {"everywhere": BFLOAT16}
    early = _choose(everywhere, lambda plan: psnr(draw(plan, late["plan"]), expected))
    files = {OPENVINO_FEATURE_FILES[first.file]: early, OPENVINO_FEATURE_FILES[second.file]: late}
    return {"float32": asdict(float32), "files": files}


def _features(outputs: Sequence[NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return the first graph's outputs as the second's inputs, with features as they are kept."""
    latent, computed = outputs
    half = features.to_half(computed)
    return {features.LATENT.name: latent, features.FEATURES.name: half.astype(np.float32)}


def _choose(plans: Plans, measure: Callable[[PrecisionPlan], float]) -> dict[str, Any]:
    """Return what provenance.json says: the first plan that the images allow, else float32.

    Args:
        measure: a plan → PSNR of the images.
    """
    result: dict[str, Any] = {"tried": [], "plan": FLOAT32}
    for where, plan in plans.items() if supports_bfloat16() else ():
        value = measure(plan)
        used = value >= MIN_PSNR
        trial = {"where": where, "quantity": "PSNR", "value": value, "bound": MIN_PSNR}
        result["tried"].append({**trial, "used": used})
        if used:
            result["plan"] = plan
            break
    return result
