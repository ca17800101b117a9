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
from styleclip_server.serving.backends import batching
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
    prepare: Callable[[Sequence[Row]], None] | None = None,
) -> list[Any]:
    """Respond to each request of `execute`, computing row by row.

    An `InvalidInput` becomes INVALID_ARGUMENT of its request only. A request whose client has
    disconnected ends before its next row, or where its work calls `check_cancelled`.

    Args:
        run_row: takes a row's inputs by name (None for an optional one that was not sent) and
            returns its outputs; one that is a function is called only when the request asks for
            that output.
        threads: compute several requests at once; None: one after the other.
        prepare: is given the rows of all requests first, and may add to each what is faster to
            compute for all at once.
    """
    jobs = [_Job(model, request) for request in requests]
    if prepare is not None:
        prepare([row for job in jobs for row in job.rows])
    respond_to = partial(_respond, model, run_row, metrics)
    if threads is None or len(jobs) == 1:
        return list(map(respond_to, jobs))
    return list(threads.map(respond_to, jobs))


class _Job:
    """A request, its inputs by name, and its rows; or why they cannot be read."""

    def __init__(self, model: Model, request: Any) -> None:
        self.request, self.start = request, time.monotonic()
        self.inputs: Row = {}
        self.rows: list[Row] = []
        self.error: Exception | None = None
        try:
            sent = batching.named_inputs(request)
            for tensor in model.inputs:
                value = sent.get(tensor.name)
                self.inputs[tensor.name] = None if value is None else value.as_numpy()
            batch = max(len(array) for array in self.inputs.values() if array is not None)
            self.rows = [
                {name: None if array is None else array[i] for name, array in self.inputs.items()}
                for i in range(batch)
            ]
        except Exception as error:
            self.error = error


def _respond(model: Model, run_row: RunRow, metrics: Metrics, job: _Job) -> Any:
    request, start, inputs = job.request, job.start, job.inputs
    request_id, number = request.request_id(), request.correlation_id()
    metrics.begin_request(request_id)
    try:
        if job.error:
            raise job.error
        requested = set(request.requested_output_names())
        with cancelled_by(lambda: request.is_cancelled() or is_cancelled(number)):
            outputs = _outputs(model, job.rows, run_row, requested)
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


def _outputs(model: Model, rows: Sequence[Row], run_row: RunRow, requested: set[str]) -> list[Any]:
    results = []
    for i, row in enumerate(rows):
        if i:  # Triton has just checked the first one; asking takes some time
            check_cancelled()
        results.append(run_row(row))
    return [
        triton.Tensor(tensor.name, _stack([_evaluate(result[tensor.name]) for result in results]))
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
