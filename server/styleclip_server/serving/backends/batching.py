"""Which rows of a batch belong to which request, and the response of one that failed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import triton_python_backend_utils as triton


def row_slices(inputs: Sequence[Any]) -> list[slice]:
    """Return each request's rows within the batch, given one input of each request."""
    ends = [0, *accumulate(map(len, inputs))]
    return [slice(start, stop) for start, stop in pairwise(ends)]


def failure(library: str, error: Exception) -> Any:
    """Return the response of a request that failed in `library`."""
    return triton.InferenceResponse(
        error=triton.TritonError(f"ServerError: {library} failed: {error}")
    )
