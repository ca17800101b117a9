"""The networks for OpenVINO, for CPUs that multiply bfloat16.

OpenVINO has Winograd kernels and fused activations of its own, so it gets the reference form of a
network and not that of `onnx_forms`. Its file has no large weights: they are external data in the
`model.onnx` of the same folder.

bfloat16 has three bits less than float16. It is used for as much of a network as the required
accuracy allows (`accuracy`), measured with the weights at hand. In e4e nine tenths of the error
come from what follows the second convolution of each head, a tenth of the arithmetic;
in StyleGAN2 most of it comes from the low resolutions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from torch import nn

from styleclip_contract import wire
from styleclip_export.convert.accuracy import Accuracy
from styleclip_export.convert.compare import Reference, difference
from styleclip_export.convert.onnx_export import (
    TRACED_BATCH,
    SelectWeights,
    no_weights,
    to_onnx,
)
from styleclip_export.convert.random_inputs import RandomInputs
from styleclip_export.errors import ConversionError
from styleclip_server.engines.cpu import supports_bfloat16
from styleclip_server.engines.model_files import MODEL_FILE, OPENVINO_FILE
from styleclip_server.engines.openvino import METADATA_KEY, Network, PrecisionPlan

NETWORKS = ("stylegan2", "e4e")
MIN_EXTERNAL_BYTES = 1024  # smaller weights stay in the file


def write(
    folder: Path,
    module: nn.Module,
    model: wire.Model,
    random_inputs: RandomInputs,
    references: Sequence[Reference],
    accuracy: Accuracy,
    bound: float,
    float16_weights: SelectWeights = no_weights,
) -> dict[str, Any] | None:
    """Writes OPENVINO_FILE beside the `model.onnx` of the same network in `folder`.

    Args:
        module: the wrapper in its reference form.
        model: names of its inputs and outputs.
        random_inputs: inputs to trace it with.
        references: outputs of PyTorch in float32.
        accuracy: what the network must reach in bfloat16.
        bound: largest absolute difference allowed in float32.
        float16_weights: selects the weights that `model.onnx` stores as float16.

    Returns:
        What provenance.json says about the file, or None if OpenVINO is not installed.

    Raises:
        ConversionError: float32 differs from PyTorch by more than `bound`; no file is written.
    """
    if not find_spec("openvino"):
        return None
    graph = onnx.load_from_string(
        to_onnx(module, model, random_inputs(TRACED_BATCH), float16_weights)
    )
    share_weights(graph, (folder / MODEL_FILE).read_bytes())
    path = folder / OPENVINO_FILE
    try:
        path.write_bytes(graph.SerializeToString())
        provenance = _choose_plan(path, graph, model, references, accuracy, bound)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if provenance["plan"]:
        onnx.helper.set_model_props(graph, {METADATA_KEY: json.dumps(provenance["plan"])})
        path.write_bytes(graph.SerializeToString())
    return provenance


def summary(provenance: Mapping[str, Any] | None) -> str:
    """The result of `write` in one line."""
    if provenance is None:
        return "left out, as it is not installed"
    line = f"float32: largest {provenance['float32']['largest']:.2g} from PyTorch"
    if not provenance["tried"]:
        return line + "; bfloat16 was not tried: this processor has no instructions for it"
    for trial in provenance["tried"]:
        verdict = "used" if trial["used"] else "missed"
        line += f"; bfloat16 {trial['where']}: {trial['quantity']} {trial['value']:.4g}, {verdict}"
    return line


def _choose_plan(
    path: Path, graph: onnx.ModelProto, model: wire.Model, references: Sequence[Reference],
    accuracy: Accuracy, bound: float,
) -> dict[str, Any]:  # fmt: skip
    """Checks float32, then measures the plans in bfloat16 up to the first that is accurate."""
    inputs = {t.name: np.concatenate([r.inputs[i].numpy() for r in references])
              for i, t in enumerate(model.inputs)}  # fmt: skip
    expected = np.concatenate([r.expected for r in references])

    def compute(plan: PrecisionPlan) -> np.ndarray:
        network = Network(path, plan=plan)
        return network(*(inputs[name] for name in network.inputs))[0]

    def errors(output: np.ndarray) -> dict[str, float]:
        return dict(zip(("largest", "mean"), difference(output, expected), strict=True))

    float32 = errors(compute([("f32", ())]))
    if not float32["largest"] <= bound:  # NaN fails too
        raise ConversionError(
            f"{model.name} in OpenVINO differs from PyTorch by {float32['largest']:.3g}, at most "
            f"{bound:g} was expected; nothing was written"
        )
    trials: list[dict[str, Any]] = []
    chosen: PrecisionPlan = []
    for where, plan in bfloat16_plans(graph, model.name) if supports_bfloat16() else ():
        output = compute(plan)
        value = accuracy.measure(output, expected)
        used = accuracy.accepts(value)
        trials.append({"where": where, "quantity": accuracy.quantity, "value": value,
                       "bound": accuracy.bound, "used": used, **errors(output)})  # fmt: skip
        if used:
            chosen = plan
            break
    return {"float32": float32, "tried": trials, "plan": chosen}


def bfloat16_plans(graph: onnx.ModelProto, name: str) -> Iterator[tuple[str, PrecisionPlan]]:
    """Yields the ways to use bfloat16 in the network `name`, the fastest first.

    Yields:
        a description such as "everywhere", and the plan.
    """
    yield "everywhere", [("bf16", ())]
    outputs = {node.name: node.output[0] for node in graph.graph.node}
    if name == "e4e":
        for activation, which in ((3, "second"), (1, "first")):
            end = re.compile(rf"/styles\.\d+/convs/convs\.{activation}/\w+$")
            heads = [output for node, output in outputs.items() if end.search(node)]
            yield f"up to the heads' {which} convolution", [("bf16", heads), ("f32", ())]
        return
    # The styles, layer by layer: two of 4 px, then three of each resolution; the last Add is that
    # of the image's range.
    styles = [output for node, output in outputs.items() if re.fullmatch(r"/Add(_\d+)?", node)][:-1]
    for block in range((len(styles) - 2) // 3 - 1):
        yield f"from {16 << block} px on", [
            ("f32", [
                outputs[f"/convs.{2 * block + 1}/activate/LeakyRelu"],
                outputs[f"/to_rgbs.{block}/Add_1"],
                *styles[5 + 3 * block :],
            ]),
            ("bf16", ()),
        ]  # fmt: skip


def share_weights(graph: onnx.ModelProto, model_onnx: bytes) -> None:
    """Moves the large weights of `graph` that the file `model_onnx` has, too, to that file."""
    places, end = {}, 0
    for tensor in onnx.load_from_string(model_onnx).graph.initializer:  # in the order of the bytes
        if len(tensor.raw_data) >= MIN_EXTERNAL_BYTES:
            start = model_onnx.index(tensor.raw_data, end)
            end = start + len(tensor.raw_data)
            places[tensor.name] = (start, end)
    for tensor in graph.graph.initializer:
        start, end = places.get(tensor.name, (0, 0))
        if len(tensor.raw_data) < MIN_EXTERNAL_BYTES or model_onnx[start:end] != tensor.raw_data:
            continue
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", MODEL_FILE), ("offset", start), ("length", end - start)):
            tensor.external_data.add(key=key, value=str(value))
