"""Networks for OpenVINO, for CPUs that multiply bfloat16.

OpenVINO has Winograd kernels and fused activations of its own, so it gets the reference and not the
variant of `onnx_variants`. Its file has no large weights: they are external data in the
`model.onnx` of the same folder.

bfloat16 has three bits less than float16. It is used for as much of a network as the required
accuracy allows, measured with the weights at hand. In e4e nine tenths of the error come from what
follows the second convolution of each head, a tenth of the arithmetic; in StyleGAN2 most of it
comes from the low resolutions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from styleclip_export.convert.comparison import (
    Reference,
    compare,
    compute_references,
)
from styleclip_export.convert.network_variants import NetworkVariants
from styleclip_export.convert.onnx_export import (
    TRACED_BATCH,
    share_weights,
    store_as_float16,
    to_onnx,
)
from styleclip_export.progress import ReportLine
from styleclip_server.engines.cpu import supports_bfloat16
from styleclip_server.engines.model_files import MODEL_FILE, OPENVINO_FILE
from styleclip_server.engines.openvino import (
    METADATA_KEY,
    OpenvinoNetwork,
    PrecisionPart,
    PrecisionPlan,
)

NETWORKS = ("stylegan2", "e4e")
FLOAT32 = [PrecisionPart("f32")]


def write(
    variants: NetworkVariants,
    references: Sequence[Reference],
    folder: Path,
    report: ReportLine,
) -> dict[str, Any] | None:
    """Write OPENVINO_FILE beside the `model.onnx` of the same network in `folder`.

    Returns:
        What provenance.json says about it, or None if OpenVINO is not installed.

    Raises:
        ConversionError: float32 differs from PyTorch by more than the bound; no file is written.
    """
    if not find_spec("openvino"):
        report(f"{variants.name} in OpenVINO: skipped, as it is not installed")
        return None
    if variants.calibration_inputs:
        references = compute_references(variants.reference.eval(), variants.calibration_inputs)
    graph = to_onnx(variants.reference, variants.model, variants.draw_inputs(TRACED_BATCH))
    if variants.float16_weights:
        store_as_float16(graph)
    share_weights(graph, folder / MODEL_FILE)
    path = folder / OPENVINO_FILE
    try:
        path.write_bytes(graph.SerializeToString())
        provenance = _choose_plan(path, graph, variants, references)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    if provenance["plan"]:
        onnx.helper.set_model_props(graph, {METADATA_KEY: json.dumps(provenance["plan"])})
        path.write_bytes(graph.SerializeToString())
    report(f"{variants.name} in OpenVINO: {summarize(provenance)}")
    return provenance


def summarize(provenance: Mapping[str, Any]) -> str:
    """Describe the result of `write` in one line."""
    line = f"float32: largest {provenance['float32']['largest']:.2g} from PyTorch"
    if not provenance["tried"]:
        return line + "; bfloat16 was not tried: this processor has no instructions for it"
    for trial in provenance["tried"]:
        verdict = "used" if trial["used"] else "missed"
        line += f"; bfloat16 {trial['where']}: {trial['quantity']} {trial['value']:.4g}, {verdict}"
    return line


def _choose_plan(
    path: Path,
    graph: onnx.ModelProto,
    variants: NetworkVariants,
    references: Sequence[Reference],
) -> dict[str, Any]:
    """Check float32, then measure the plans in bfloat16 up to the first that is accurate."""
    largest = references[-1]  # the others are its first rows
    inputs = {t.name: x.numpy() for t, x in zip(variants.model.inputs, largest.inputs, strict=True)}
    expected = largest.expected

    def compute(plan: PrecisionPlan) -> np.ndarray:
        return OpenvinoNetwork(path, plan=plan)(inputs)[0]

    float32 = compare(compute(FLOAT32), expected)
    float32.check(variants.bound, f"{variants.name} in OpenVINO")
    accuracy = variants.accuracy
    trials: list[dict[str, Any]] = []
    chosen: PrecisionPlan = []
    plans = bfloat16_plans(graph, variants.name) if supports_bfloat16() else ()
    for where, plan in plans:
        output = compute(plan)
        value = accuracy.measure(output, expected)
        used = accuracy.accepts(value)
        trials.append({"where": where, "quantity": accuracy.quantity, "value": value,
                       "bound": accuracy.bound, "used": used,
                       **asdict(compare(output, expected))})  # fmt: skip
        if used:
            chosen = plan
            break
    return {"float32": asdict(float32), "tried": trials, "plan": chosen}


def bfloat16_plans(graph: onnx.ModelProto, name: str) -> Iterator[tuple[str, PrecisionPlan]]:
    """Yield the ways to use bfloat16 in the network `name`, the fastest first.

    Yields:
        a description such as "everywhere", and the plan.
    """
    outputs = {node.name: node.output[0] for node in graph.graph.node}
    yield "everywhere", [PrecisionPart("bf16")]
    yield from _e4e_plans(outputs) if name == "e4e" else _stylegan2_plans(outputs)


def _e4e_plans(outputs: Mapping[str, str]) -> Iterator[tuple[str, PrecisionPlan]]:
    """Yield plans that end bfloat16 within the heads; `outputs`: node → tensor."""
    for activation, which in ((3, "second"), (1, "first")):
        # The activation after that convolution, in each head.
        node_name = re.compile(rf"/styles\.\d+/convs/convs\.{activation}/\w+$")
        ends = [tensor for node, tensor in outputs.items() if node_name.search(node)]
        yield (
            f"up to the heads' {which} convolution",
            [PrecisionPart("bf16", ends), PrecisionPart("f32")],
        )


def _stylegan2_plans(outputs: Mapping[str, str]) -> Iterator[tuple[str, PrecisionPlan]]:
    """Yield plans that start bfloat16 at ever higher resolutions; `outputs`: node → tensor."""
    # `LatentToImage` adds DELTA to each style, in execution order: two of 4 px, then three of each
    # resolution. Its last Add is that of the image's range.
    *styles, _ = [tensor for node, tensor in outputs.items() if re.fullmatch(r"/Add(_\d+)?", node)]
    num_blocks = (len(styles) - 2) // 3  # from 8 px on
    for block in range(num_blocks - 1):
        # What the next block reads: features, RGB, and the styles from its own on.
        features = outputs[f"/convs.{2 * block + 1}/activate/LeakyRelu"]
        rgb = outputs[f"/to_rgbs.{block}/Add_1"]
        ends = [features, rgb, *styles[2 + 3 * (block + 1) :]]
        yield f"from {16 << block} px on", [PrecisionPart("f32", ends), PrecisionPart("bf16")]
