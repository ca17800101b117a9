"""What the Python steps of the model repository share: rows in, rows out, named errors.

Imported by the `model.py` files, inside Triton only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as triton
from styleclip_client.contract import Model
from styleclip_client.errors import InvalidInput, StyleclipError

Row = dict[str, Any]


def respond(model: Model, requests: Sequence[Any], answer: Callable[[Row], Row]) -> list[Any]:
    """Answers each request of `execute` row by row.

    `answer` gets a row's inputs by name (None for an optional one that was not sent) and returns
    its outputs. An `InvalidInput` becomes INVALID_ARGUMENT, of its own request alone.
    """
    responses = []
    for request in requests:
        try:
            responses.append(_respond(model, request, answer))
        except StyleclipError as error:
            theirs = isinstance(error, InvalidInput)
            code = triton.TritonError.INVALID_ARG if theirs else triton.TritonError.INTERNAL
            refusal = triton.TritonError(error.to_wire(), code)
            responses.append(triton.InferenceResponse(error=refusal))
        except Exception as error:
            triton.Logger.log_error(f"{model.name}: {type(error).__name__}: {error}")
            failure = triton.TritonError(f"ServerError: {model.name} failed: {error}")
            responses.append(triton.InferenceResponse(error=failure))
    return responses


def _respond(model: Model, request: Any, answer: Callable[[Row], Row]) -> Any:
    inputs = {}
    for tensor in model.inputs:
        found = triton.get_input_tensor_by_name(request, tensor.name)
        inputs[tensor.name] = None if found is None else found.as_numpy()
    batch = max(len(array) for array in inputs.values() if array is not None)
    rows = [
        answer({name: None if array is None else array[i] for name, array in inputs.items()})
        for i in range(batch)
    ]
    outputs = []
    for tensor in model.outputs:
        values = np.stack([row[tensor.name] for row in rows])
        outputs.append(triton.Tensor(tensor.name, values))
    return triton.InferenceResponse(outputs)


def first(value: Any, default: Any) -> Any:
    """The single element of an optional input of shape [1]."""
    return default if value is None else value[0]
