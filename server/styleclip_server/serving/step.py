"""What the Python steps of the model repository share: rows in, rows out, named errors.

Imported by the `model.py` files, inside Triton only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from styleclip_contract.errors import InvalidInput, StyleclipError
from styleclip_contract.wire import Model
from styleclip_server import parent_watch
from styleclip_server.serving import request_log
from styleclip_server.serving.metrics import Metrics

parent_watch.hold()

Row = dict[str, Any]


def respond(
    model: Model, requests: Sequence[Any], answer: Callable[[Row], Row], metrics: Metrics
) -> list[Any]:
    """Answers each request of `execute` row by row.

    `answer` gets a row's inputs by name (None for an optional one that was not sent) and returns
    its outputs; one that is a function is called only when the request asks for that output. An
    `InvalidInput` becomes INVALID_ARGUMENT, of its own request alone.
    """
    return [_respond(model, request, answer, metrics) for request in requests]


def _respond(model: Model, request: Any, answer: Callable[[Row], Row], metrics: Metrics) -> Any:
    began, name, inputs = time.monotonic(), request.request_id(), {}
    metrics.about(name)
    try:
        for tensor in model.inputs:
            found = triton.get_input_tensor_by_name(request, tensor.name)
            inputs[tensor.name] = None if found is None else found.as_numpy()
        asked = set(request.requested_output_names())
        response = triton.InferenceResponse(_answers(model, inputs, answer, asked))
        request_log.note(model.name, name, time.monotonic() - began, inputs)
    except Exception as error:
        response = triton.InferenceResponse(error=_refusal(model, error))
        metrics.refused(error)
        request_log.note(model.name, name, time.monotonic() - began, inputs, error)
    return response


def _answers(model: Model, inputs: Row, answer: Callable[[Row], Row], asked: set[str]) -> list[Any]:
    batch = max(len(array) for array in inputs.values() if array is not None)
    rows = [
        answer({name: None if array is None else array[i] for name, array in inputs.items()})
        for i in range(batch)
    ]
    return [
        triton.Tensor(tensor.name, _stacked([_value(row[tensor.name]) for row in rows]))
        for tensor in model.outputs
        if tensor.name in asked
    ]


def _refusal(model: Model, error: Exception) -> Any:
    if not isinstance(error, StyleclipError):
        return triton.TritonError(f"ServerError: {model.name} failed: {error}")
    theirs = isinstance(error, InvalidInput)
    code = triton.TritonError.INVALID_ARG if theirs else triton.TritonError.INTERNAL
    return triton.TritonError(error.to_wire(), code)


def _stacked(arrays: Sequence[Any]) -> Any:
    """The arrays of a batch as one; shorter ones are filled up with NaN."""
    longest = max(map(len, arrays))
    fill = [((0, longest - len(array)), *[(0, 0)] * (np.ndim(array) - 1)) for array in arrays]
    return np.stack(
        [
            np.pad(array, margin, constant_values=np.nan) if margin[0][1] else array
            for array, margin in zip(arrays, fill, strict=True)
        ]
    )


def _value(output: Any) -> Any:
    return output() if callable(output) else output


def first(value: Any, default: Any) -> Any:
    """The single element of an optional input of shape [1]."""
    return default if value is None else value[0]
