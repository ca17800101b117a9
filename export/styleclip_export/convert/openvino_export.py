"""The networks as OpenVINO computes them fastest, for CPUs that multiply bfloat16.

OpenVINO has Winograd kernels and fused activations of its own, so it gets the networks in their
own form and not in ONNX Runtime's (`onnx_forms`). Its file holds no large weight: they lie in
`model.onnx`, in the same folder, whose bytes it points to.

bfloat16 has three bits less than float16: it is used for as much of a network as the bounds of
float16 (`half`) allow, measured with the weights at hand. Where the error comes from
(docs/performance.md): in e4e nine tenths of it from behind the second convolution of each head,
where a tenth of the arithmetic is; in StyleGAN2 most of it from the low resolutions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto
from torch import Tensor

from styleclip_contract import wire
from styleclip_export.convert import onnx_export
from styleclip_export.convert.float16 import Half
from styleclip_export.errors import ConversionError
from styleclip_server.engines.cpu import supports_bfloat16
from styleclip_server.engines.flavours import MODEL_FILE, OPENVINO_FILE
from styleclip_server.engines.openvino.network import METADATA_KEY, Network, PrecisionPlan

MODULES = (onnx_export.FaceToLatent, onnx_export.LatentToPicture)
_SMALL = 1024  # bytes; smaller weights stay in the file


def write(
    folder: Path,
    module: onnx_export.FaceToLatent | onnx_export.LatentToPicture,
    model: wire.Model,
    example: Callable[[int], tuple[Tensor, ...]],
    references: Sequence[onnx_export.Reference],
    half: Half,
    bound: float,
    stored_half: Callable[[str], bool] = onnx_export.nothing,
) -> dict[str, Any] | None:
    """Writes OPENVINO_FILE beside the `model.onnx` in `folder`, which was made of the same module;
    what is stored about it. None where OpenVINO is not installed.

    Args:
        half: measures a precision, and says what it must reach.
        bound: largest allowed difference from PyTorch in float32.
        stored_half: which weights `model.onnx` holds in float16.

    Raises:
        ConversionError: it differs from PyTorch by more than `bound`; the file is not written.
    """
    if not find_spec("openvino"):
        return None
    module.onnxruntime_forms = False
    try:
        data = onnx_export.to_onnx(module, model, example(2), stored_half)
    finally:
        module.onnxruntime_forms = True
    graph = onnx.load_from_string(data)
    share_weights(graph, (folder / MODEL_FILE).read_bytes())
    path = folder / OPENVINO_FILE
    try:
        path.write_bytes(graph.SerializeToString())
        provenance = _measure(path, graph, model, references, half, bound)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if provenance["plan"]:
        onnx.helper.set_model_props(graph, {METADATA_KEY: json.dumps(provenance["plan"])})
        path.write_bytes(graph.SerializeToString())
    return provenance


def told(provenance: Mapping[str, Any] | None) -> str:
    """What `write` found, in a line."""
    if provenance is None:
        return "left out, as it is not installed"
    line = f"float32: largest {provenance['float32']['largest']:.2g} from PyTorch"
    if not provenance["tried"]:
        return line + "; bfloat16 was not tried: this processor has no instructions for it"
    for trial in provenance["tried"]:
        verdict = "used" if trial["used"] else "missed"
        line += f"; bfloat16 {trial['where']}: {trial['quantity']} {trial['value']:.4g}, {verdict}"
    return line


def _measure(
    path: Path, graph: onnx.ModelProto, model: wire.Model,
    references: Sequence[onnx_export.Reference], half: Half, bound: float,
) -> dict[str, Any]:  # fmt: skip
    inputs = {t.name: np.concatenate([r.inputs[i].numpy() for r in references])
              for i, t in enumerate(model.inputs)}  # fmt: skip
    expected = np.concatenate([r.expected for r in references])

    def compute(plan: PrecisionPlan) -> np.ndarray:
        network = Network(path, plan=plan)
        return network(*(inputs[name] for name in network.inputs))[0]

    def errors(found: np.ndarray) -> dict[str, float]:
        difference = np.abs(found.astype(np.float32) - expected.astype(np.float32))
        return {"largest": float(difference.max()), "mean": float(difference.mean(dtype=float))}

    exact = errors(compute([("f32", ())]))
    if not exact["largest"] <= bound:  # NaN fails too
        raise ConversionError(
            f"{model.name} in OpenVINO differs from PyTorch by {exact['largest']:.3g}, at most "
            f"{bound:g} was expected; nothing was written"
        )
    tried: list[dict[str, Any]] = []
    chosen: PrecisionPlan = []
    for where, plan in plans(graph, model.name) if supports_bfloat16() else ():
        found = compute(plan)
        value = half.measure(found, expected)
        used = value <= half.bound if half.smaller else value >= half.bound
        tried.append({"where": where, "quantity": half.quantity, "value": value,
                      "bound": half.bound, "used": used, **errors(found)})  # fmt: skip
        if used:
            chosen = plan
            break
    return {"float32": exact, "tried": tried, "plan": chosen}


def plans(graph: onnx.ModelProto, name: str) -> Iterator[tuple[str, PrecisionPlan]]:
    """How the network `name` may be computed, the fastest first, each in words."""
    yield "everywhere", [("bf16", ())]
    nodes = {node.name: node.output[0] for node in graph.graph.node}
    if name == "e4e":
        for activation, which in ((3, "second"), (1, "first")):
            end = re.compile(rf"/styles\.\d+/convs/convs\.{activation}/\w+$")
            heads = [output for name, output in nodes.items() if end.search(name)]
            yield f"up to the heads' {which} convolution", [("bf16", heads), ("f32", ())]
        return
    # S, layer by layer: conv1, to_rgb1, then for each resolution two convolutions and its to_rgb.
    styles = [output for name, output in nodes.items() if re.fullmatch(r"/Add(_\d+)?", name)][:-1]
    for block in range((len(styles) - 2) // 3 - 1):
        yield f"from {16 << block} px on", [
            ("f32", [
                nodes[f"/convs.{2 * block + 1}/activate/LeakyRelu"],
                nodes[f"/to_rgbs.{block}/Add_1"],
                *styles[5 + 3 * block :],
            ]),
            ("bf16", ()),
        ]  # fmt: skip


def share_weights(graph: onnx.ModelProto, whole: bytes) -> None:
    """Lets the weights of `graph` that the file `whole` (model.onnx) holds too lie there alone."""
    places, end = {}, 0
    for tensor in onnx.load_from_string(whole).graph.initializer:  # in the order of the bytes
        if len(tensor.raw_data) >= _SMALL:
            start = whole.index(tensor.raw_data, end)
            end = start + len(tensor.raw_data)
            places[tensor.name] = (start, end)
    for tensor in graph.graph.initializer:
        start, end = places.get(tensor.name, (0, 0))
        if len(tensor.raw_data) < _SMALL or whole[start:end] != tensor.raw_data:
            continue
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", MODEL_FILE), ("offset", start), ("length", end - start)):
            tensor.external_data.add(key=key, value=str(value))
