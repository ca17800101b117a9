"""Networks as ONNX files, each compared with PyTorch before it is written.

Exported graphs keep every weight as the checkpoint has it, without folded constants: ONNX Runtime
folds them when it loads. Weights that are exact enough in float16 can be stored so; arithmetic
stays float32.
"""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from styleclip_contract import wire
from styleclip_export.convert.compare import Comparison, Reference, compare_onnx
from styleclip_export.convert.random_inputs import Inputs, RandomInputs
from styleclip_export.errors import ConversionError

TRACED_BATCH = 2  # not 1, which would hide a dimension that broadcasts
OPSET = 17  # NVIDIA's containers and every ONNX Runtime since 1.12 read it
MIN_FLOAT16_SIZE = 1024  # values; smaller weights stay float32

SelectWeights = Callable[[str], bool]


def all_weights(name: str) -> bool:
    """Selects every weight, to be stored as float16."""
    return True


def no_weights(name: str) -> bool:
    """Selects no weight, so that all are stored as float32."""
    return False


@dataclass(frozen=True)
class Exported:
    """An ONNX file in memory, and its differences from PyTorch."""

    data: bytes
    bound: float
    comparisons: tuple[Comparison, ...]

    def provenance(self, **sources: Any) -> dict[str, Any]:
        """Content of provenance.json: `sources`, hash, differences, versions of the tools."""
        return {
            **sources,
            "sha256": hashlib.sha256(self.data).hexdigest(),
            "bound": self.bound,
            "errors": [asdict(c) for c in self.comparisons],
            "tools": {
                "torch": torch.__version__,
                "onnx": onnx.__version__,
                "onnxruntime": onnxruntime.__version__,
            },
        }


def export(
    module: nn.Module,
    model: wire.Model,
    random_inputs: RandomInputs,
    references: Sequence[Reference],
    bound: float,
    *,
    float16_weights: SelectWeights = no_weights,
) -> Exported:
    """Exports `module` to ONNX and compares it with PyTorch.

    Args:
        module: a wrapper in the form to export.
        model: names of its inputs and outputs.
        random_inputs: inputs to trace it with.
        references: outputs of the reference form.
        bound: largest absolute difference allowed, in the output's units.
        float16_weights: selects weights to store as float16 by their names.

    Raises:
        ConversionError: ONNX Runtime differs from PyTorch by more than `bound`.
    """
    data = to_onnx(module, model, random_inputs(TRACED_BATCH), float16_weights)
    comparisons = tuple(compare_onnx(data, model, references))
    largest = max(c.largest for c in comparisons)
    if not largest <= bound:  # NaN fails too
        raise ConversionError(
            f"{model.name} as ONNX differs from PyTorch by {largest:.3g}, at most {bound:g} was "
            "expected; nothing was written"
        )
    return Exported(data, bound, comparisons)


def to_onnx(
    module: nn.Module,
    model: wire.Model,
    inputs: Inputs,
    float16_weights: SelectWeights = no_weights,
) -> bytes:
    """Traces `module` on `inputs` and returns an ONNX file with a dynamic batch.

    Raises:
        ConversionError: see `store_as_float16`.
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
    del buffer  # full-size e4e is 1.1 GB
    graph.producer_name, graph.producer_version = "styleclip-export", ""
    store_as_float16(graph, float16_weights)
    return graph.SerializeToString()  # type: ignore[no-any-return]


def store_as_float16(graph: onnx.ModelProto, selected: SelectWeights) -> None:
    """Stores large `selected` weights as float16, each followed by a Cast to float32.

    Raises:
        ConversionError: a weight overflows, or has a relative error above 1e-3.
    """
    casts = []
    for tensor in graph.graph.initializer:
        if tensor.data_type != TensorProto.FLOAT or not selected(tensor.name):
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
