"""What the Python steps of the model repository share: rows in, rows out, named errors.

Imported by the `model.py` files, inside Triton only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

import numpy as np
import triton_python_backend_utils as triton

from styleclip_contract.errors import InvalidInput, StyleclipError
from styleclip_contract.wire import Model
from styleclip_server.cancelled_calls import is_cancelled
from styleclip_server.pipeline.cancellation import (
    WorkCancelled,
    cancelled_by,
    check_cancelled,
)
from styleclip_server.serving import parent_watch, request_log
from styleclip_server.serving.metrics import Metrics

parent_watch.die_with_triton()

Row = dict[str, Any]
RunRow = Callable[[Row], Row]


def respond(
    model: Model,
    requests: Sequence[Any],
    run_row: RunRow,
    metrics: Metrics,
    threads: Executor | None = None,
) -> list[Any]:
    """Respond to each request of `execute`, computing row by row.

    An `InvalidInput` becomes INVALID_ARGUMENT of its request only. A request whose client has
    disconnected ends before its next row, or where its work calls `check_cancelled`.

    Args:
        run_row: takes a row's inputs by name (None for an optional one that was not sent) and
            returns its outputs; one that is a function is called only when the request asks for
            that output.
        threads: compute several requests at once; None: one after the other.
    """
    respond_to = partial(_respond, model, run_row, metrics)
    if threads is None or len(requests) == 1:
        return list(map(respond_to, requests))
    return list(threads.map(respond_to, requests))


def _respond(model: Model, run_row: RunRow, metrics: Metrics, request: Any) -> Any:
    start, request_id = time.monotonic(), request.request_id()
    number = request.correlation_id()
    inputs: Row = {}
    metrics.begin_request(request_id)
    try:
        for tensor in model.inputs:
            value = triton.get_input_tensor_by_name(request, tensor.name)
            inputs[tensor.name] = None if value is None else value.as_numpy()
        requested = set(request.requested_output_names())
        with cancelled_by(lambda: request.is_cancelled() or is_cancelled(number)):
            outputs = _outputs(model, inputs, run_row, requested)
        response = triton.InferenceResponse(outputs)
        request_log.log_request(model.name, request_id, time.monotonic() - start, inputs)
    except WorkCancelled as error:
        cancelled = triton.TritonError("the client has disconnected", triton.TritonError.CANCELLED)
        response = triton.InferenceResponse(error=cancelled)
        request_log.log_request(model.name, request_id, time.monotonic() - start, inputs, error)
    except Exception as error:
        response = triton.InferenceResponse(error=_triton_error(model, error))
        metrics.count_error(error)
        request_log.log_request(model.name, request_id, time.monotonic() - start, inputs, error)
    return response


def _outputs(model: Model, inputs: Row, run_row: RunRow, requested: set[str]) -> list[Any]:
    batch = max(len(array) for array in inputs.values() if array is not None)
    rows = []
    for i in range(batch):
        if i:  # Triton has just checked the first one; asking takes some time
            check_cancelled()
        row = {name: None if array is None else array[i] for name, array in inputs.items()}
        rows.append(run_row(row))
    return [
        triton.Tensor(tensor.name, _stack([_evaluate(row[tensor.name]) for row in rows]))
        for tensor in model.outputs
        if tensor.name in requested
    ]


def _triton_error(model: Model, error: Exception) -> Any:
    if not isinstance(error, StyleclipError):
        return triton.TritonError(f"ServerError: {model.name} failed: {error}")
    invalid = isinstance(error, InvalidInput)
    code = triton.TritonError.INVALID_ARG if invalid else triton.TritonError.INTERNAL
    return triton.TritonError(error.to_wire(), code)


def _stack(arrays: Sequence[Any]) -> Any:
    """Stack the arrays of a batch; shorter ones are padded with NaN."""
    longest = max(map(len, arrays))
    padding = [((0, longest - len(array)), *[(0, 0)] * (np.ndim(array) - 1)) for array in arrays]
    return np.stack(
        [
            np.pad(array, margin, constant_values=np.nan) if margin[0][1] else array
            for array, margin in zip(arrays, padding, strict=True)
        ]
    )


def _evaluate(output: Any) -> Any:
    return output() if callable(output) else output


def scalar(value: Any, default: Any) -> Any:
    """Return the element of an optional input (1,), or `default` if it was not sent."""
    return default if value is None else value[0]
