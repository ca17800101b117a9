"""A network in OpenVINO, on an x86 processor that multiplies bfloat16.

Its file says in its metadata which part is computed in which precision, as held the bound of
accuracy when the network was converted.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import openvino

# A precision of OpenVINO's and the tensors up to which it is used; the last has none: to the end.
Plan = Sequence[tuple[str, Sequence[str]]]
METADATA = "precisions"  # the key of a Plan as JSON


class Network:
    """The ONNX file at `path`, one row at a time: a row fills all cores, and fixed shapes are
    planned once.

    Args:
        threads: how many; None: one for each core.
        plan: None: as the file says, else float32.

    Raises:
        RuntimeError: OpenVINO cannot read the file (says why), or a tensor is not in it.
    """

    def __init__(self, path: Path, threads: int | None = None, plan: Plan | None = None) -> None:
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        model.reshape({port: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
        self.inputs = [port.any_name for port in model.inputs]
        self.outputs = [port.any_name for port in model.outputs]
        options: dict[str, Any] = {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            # A thread bound to a core waits for it while another process has it.
            "ENABLE_CPU_PINNING": False,
        }
        if threads:
            options["INFERENCE_NUM_THREADS"] = threads
        self._requests = [
            core.compile_model(
                part, "CPU", options | {"INFERENCE_PRECISION_HINT": precision}
            ).create_infer_request()
            for part, precision in _parts(model, plan or _metadata(model))
        ]

    def __call__(self, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
        """Inputs (N, …) in the order of `inputs` → outputs (N, …) in that of `outputs`."""
        rows = [self._row([x[i : i + 1] for x in inputs]) for i in range(len(inputs[0]))]
        return [np.concatenate(column) for column in zip(*rows, strict=True)]

    def _row(self, values: list[NDArray[Any]]) -> list[NDArray[Any]]:
        for request in self._requests:
            # Memory is shared: a part reads where the one before it wrote.
            request.infer(dict(enumerate(values)), share_inputs=True)
            values = [tensor.data for tensor in request.output_tensors]
        return [value.copy() for value in values]


def _metadata(model: openvino.Model) -> Plan:
    where = ["framework", METADATA]
    found = json.loads(model.get_rt_info(where).astype(str)) if model.has_rt_info(where) else None
    return found or [("f32", ())]


def _parts(model: openvino.Model, plan: Plan) -> list[tuple[openvino.Model, str]]:
    """`model` cut as the `plan` says, each part with its precision."""
    import openvino

    parts = []
    for precision, until in plan[:-1]:
        first = model.clone()
        parts.append(
            (openvino.Model(_tensors(first, until), first.get_parameters(), "part"), precision)
        )
        cut = []
        for name, output in zip(until, _tensors(model, until), strict=True):
            parameter = openvino.opset13.parameter(output.partial_shape, output.element_type)
            for reader in output.get_target_inputs():
                reader.replace_source_output(parameter.output(0))
            parameter.output(0).set_names({name})  # a later cut may be here too
            cut.append(parameter)
        model = openvino.Model(model.get_results(), cut, "part")
    return [*parts, (model, plan[-1][0])]


def _tensors(model: openvino.Model, names: Sequence[str]) -> list[Any]:
    """Where in `model` the tensors of these names come from."""
    found = {name: port for node in model.get_ops() for port in node.outputs()
             for name in port.get_names()}  # fmt: skip
    missing = [name for name in names if name not in found]
    if missing:
        raise RuntimeError(f"the network has no tensor {missing[0]}")
    return [found[name] for name in names]
