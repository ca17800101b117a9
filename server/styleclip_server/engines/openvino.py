"""A network in OpenVINO, on an x86 CPU that multiplies bfloat16.

The file's metadata says which part is computed in which precision: the fastest plan that met the
accuracy bound when the network was converted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import openvino

METADATA_KEY = "precisions"  # of a PrecisionPlan, as JSON, in the ONNX file


class PrecisionPart(NamedTuple):
    """A part of a network that is computed in one precision.

    Attributes:
        precision: OpenVINO's name of it: "f32" or "bf16".
        end_tensors: names of the tensors that end the part; none for the last part.
    """

    precision: str
    end_tensors: Sequence[str] = ()


PrecisionPlan = Sequence[PrecisionPart]
"""The parts of a network in execution order."""


class OpenvinoNetwork:
    """The network of an ONNX file, run by OpenVINO, one row of the batch at a time.

    A row alone keeps all cores busy, and fixed shapes let OpenVINO plan its memory once.

    Args:
        path: the ONNX file.
        threads: number of threads; None means one per core.
        plan: precisions of the parts; None means the file's own plan, or float32 if it has none.
        weights: those inputs of the file that are weights, which lie outside of its folder.

    Raises:
        RuntimeError: OpenVINO cannot read the file, or a tensor of the plan is not in it.
    """

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        plan: PrecisionPlan | None = None,
        weights: Mapping[str, NDArray[Any]] | None = None,
    ) -> None:
        import openvino

        core = openvino.Core()
        # The server links files one by one; weights in MODEL_FILE must lie beside the file itself.
        model = core.read_model(path.resolve())
        _insert(model, weights or {})
        model.reshape({port: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
        self.inputs = [port.any_name for port in model.inputs]
        self.outputs = [port.any_name for port in model.outputs]
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # A pinned thread waits for its core while another process runs there.
            "ENABLE_CPU_PINNING": False,
        }
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        self._requests = [
            core.compile_model(
                part, "CPU", options | {"INFERENCE_PRECISION_HINT": precision}
            ).create_infer_request()
            for part, precision in _split(model, plan or _stored_plan(model))
        ]

    def __call__(self, inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """Run the network: inputs (N, …) by name → outputs (N, …), as in `self.outputs`."""
        arrays = [inputs[name] for name in self.inputs]
        rows = [self._run_row([x[i : i + 1] for x in arrays]) for i in range(len(arrays[0]))]
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    def _run_row(self, values: list[NDArray[Any]]) -> list[NDArray[Any]]:
        for request in self._requests:
            # The outputs are views: the next part reads them in place.
            request.infer(dict(enumerate(values)), share_inputs=True)
            values = [tensor.data for tensor in request.output_tensors]
        return [value.copy() for value in values]


def _insert(model: openvino.Model, weights: Mapping[str, NDArray[Any]]) -> None:
    """Replace the inputs of `model` that are weights by their values."""
    import openvino

    for parameter in model.get_parameters():
        name = parameter.output(0).any_name
        if name in weights:
            constant = openvino.opset13.constant(weights[name])
            for reader in parameter.output(0).get_target_inputs():
                reader.replace_source_output(constant.output(0))
            model.remove_parameter(parameter)


def _stored_plan(model: openvino.Model) -> PrecisionPlan:
    """Return the plan in the file's metadata, or float32 for the entire network."""
    where = ["framework", METADATA_KEY]
    plan = json.loads(model.get_rt_info(where).astype(str)) if model.has_rt_info(where) else None
    return [PrecisionPart(*part) for part in plan or [("f32", ())]]


def _split(model: openvino.Model, plan: PrecisionPlan) -> list[tuple[openvino.Model, str]]:
    """Return the parts of `model` that `plan` describes, each with its precision."""
    import openvino

    parts = []
    *ended, last = plan
    for precision, ends in ended:
        first = model.clone()
        parts.append(
            (openvino.Model(_ports(first, ends), first.get_parameters(), "part"), precision)
        )
        parameters = []
        for name, output in zip(ends, _ports(model, ends), strict=True):
            parameter = openvino.opset13.parameter(output.partial_shape, output.element_type)
            for reader in output.get_target_inputs():
                reader.replace_source_output(parameter.output(0))
            parameter.output(0).set_names({name})  # a later part may end here too
            parameters.append(parameter)
        model = openvino.Model(model.get_results(), parameters, "part")
    return [*parts, (model, last.precision)]


def _ports(model: openvino.Model, names: Sequence[str]) -> list[Any]:
    """Return the outputs of nodes in `model` that compute the tensors `names`."""
    ports = {name: port for node in model.get_ops() for port in node.outputs()
             for name in port.get_names()}  # fmt: skip
    missing = [name for name in names if name not in ports]
    if missing:
        raise RuntimeError(f"the network has no tensor {missing[0]}")
    return [ports[name] for name in names]
