"""Networks as ONNX files for ONNX Runtime.

Exported graphs keep every weight as the checkpoint has it, without folded constants: ONNX Runtime
folds them when it loads. Weights that are exact enough in float16 can be stored so; arithmetic
stays float32.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from styleclip_contract import wire
from styleclip_export.convert.comparison import Reference, compare, run_onnx
from styleclip_export.convert.network_variants import NetworkVariants
from styleclip_export.convert.random_inputs import Inputs
from styleclip_export.errors import ConversionError
from styleclip_export.progress import ReportLine
from styleclip_server.engines.model_files import MODEL_FILE

TRACED_BATCH = 2  # not 1, which would hide a dimension that broadcasts
OPSET = 17  # NVIDIA's containers and every ONNX Runtime since 1.12 read it
MIN_FLOAT16_SIZE = 1024  # values; smaller weights stay float32
MIN_EXTERNAL_BYTES = 1024  # smaller weights stay in their file


def write(
    variants: NetworkVariants,
    references: Sequence[Reference],
    folder: Path,
    report: ReportLine,
) -> dict[str, Any]:
    """Write MODEL_FILE into `folder`.

    Returns:
        What provenance.json says about it.

    Raises:
        ConversionError: ONNX Runtime differs from PyTorch by more than the bound, or see
            `store_as_float16`; no file is written.
    """
    model = variants.model
    graph = to_onnx(variants.onnxruntime, model, variants.draw_inputs(TRACED_BATCH))
    if variants.float16_weights:
        store_as_float16(graph)
    data = graph.SerializeToString()
    del graph  # full-size e4e is 1.1 GB
    errors = []
    for reference, output in zip(references, run_onnx(data, model, references), strict=True):
        difference = compare(output, reference.expected)
        difference.check(variants.bound, f"{model.name} as ONNX")
        report(f"{model.name}, batch {reference.batch}: {difference} from PyTorch")
        errors.append({"batch": reference.batch, **asdict(difference)})
    (folder / MODEL_FILE).write_bytes(data)
    return {
        "sha256": hashlib.sha256(data).hexdigest(),
        "bound": variants.bound,
        "errors": errors,
        "tools": {
            "torch": torch.__version__,
            "onnx": onnx.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }


def to_onnx(module: nn.Module, model: wire.Model, inputs: Inputs) -> onnx.ModelProto:
    """Trace `module` on `inputs`.

    Args:
        model: names of its inputs and outputs.

    Returns:
        the ONNX graph, with a dynamic batch.
    """
    names = [t.name for t in model.inputs], [t.name for t in model.outputs]
    buffer = io.BytesIO()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tracing warns of sizes that are constants by design
        torch.onnx.export(
            module.eval(),
            inputs,
            buffer,  # type: ignore[arg-type]  # the tracing exporter writes to files, too
            input_names=names[0],
            output_names=names[1],
            dynamic_axes={name: {0: "batch"} for name in (*names[0], *names[1])},
            opset_version=OPSET,
            dynamo=False,
            do_constant_folding=False,
            # As the module is, so that batch norms are not fused into weights at export.
            training=torch.onnx.TrainingMode.PRESERVE,
        )
    graph = onnx.load_from_string(buffer.getvalue())
    graph.producer_name, graph.producer_version = "styleclip-export", ""
    return graph


def store_as_float16(
    graph: onnx.ModelProto, select: Callable[[str], bool] = lambda name: True
) -> None:
    """Store large weights as float16, each followed by a Cast to float32.

    The Cast's output gets the weight's name: `styleclip_server.engines.weights` relies on it.

    Args:
        select: whether to store the weight of a name; by default all.

    Raises:
        ConversionError: a weight overflows, or has a relative error above 1e-3.
    """
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or not select(tensor.name):
            continue
        weight = numpy_helper.to_array(tensor)
        if weight.size < MIN_FLOAT16_SIZE:
            continue
        rounded = weight.astype(np.float16)
        scale = float(np.abs(weight).max()) or 1.0
        if not np.abs(rounded.astype(np.float32) - weight).max() <= 1e-3 * scale:
            raise ConversionError(f"{tensor.name} does not fit into float16; store float32")
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(rounded, f"{name}_half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        graph.graph.node.insert(0, node)


def share_weights(graph: onnx.ModelProto, other: Path) -> dict[str, tuple[str, list[int], int]]:
    """Move large weights of `graph` that the ONNX file `other` has too to that file.

    The file of `graph` must lie in the same folder then, or who loads it passes the weights.

    Returns:
        dtype, shape and offset in `other` of each such weight by its name.
    """
    data = other.read_bytes()
    places, end = {}, 0
    for tensor in onnx.load_from_string(data).graph.initializer:  # in the order of the bytes
        if len(tensor.raw_data) >= MIN_EXTERNAL_BYTES:
            start = data.index(tensor.raw_data, end)
            end = start + len(tensor.raw_data)
            places[tensor.name] = (start, end)
    shared = {}
    for tensor in graph.graph.initializer:
        start, end = places.get(tensor.name, (0, 0))
        if len(tensor.raw_data) < MIN_EXTERNAL_BYTES or data[start:end] != tensor.raw_data:
            continue
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", other.name), ("offset", start), ("length", end - start)):
            tensor.external_data.add(key=key, value=str(value))
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type).name
        shared[tensor.name] = dtype, list(tensor.dims), start
    return shared
