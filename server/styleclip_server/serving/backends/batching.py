"""The inputs of requests, which rows of a batch are whose, and the response of one that failed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import triton_python_backend_utils as triton


def named_inputs(request: Any) -> dict[str, Any]:
    """Return the inputs that a request was sent with, by name.

    Triton's `get_input_tensor_by_name` wraps all of them again for each name.
    """
    return {tensor.name(): tensor for tensor in request.inputs()}


def row_slices(inputs: Sequence[Any]) -> list[slice]:
    """Return each request's rows within the batch, given one input of each request."""
    ends = [0, *accumulate(map(len, inputs))]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def failure(library: str, error: Exception) -> Any:
    """Return the response of a request that failed in `library`."""
    return triton.InferenceResponse(
        error=triton.TritonError(f"ServerError: {library} failed: {error}")
    )
