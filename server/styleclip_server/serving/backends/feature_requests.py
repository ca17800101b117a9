"""What the models share that serve both fidelities."""

from __future__ import annotations

import os
from typing import Any

import triton_python_backend_utils as triton

from styleclip_contract import limits, wire
from styleclip_contract.errors import InvalidInput, StyleclipError, UnknownFidelity
from styleclip_server.pipeline.fidelities import parse_fidelity

CACHE_VARIABLE = "STYLECLIP_FEATURE_CACHE_MIB"
DEFAULT_CACHE_MIB = 512  # 120 faces at 1024 px


def cache_bytes() -> int:
    """Return how many bytes of features are kept."""
    return int(os.environ.get(CACHE_VARIABLE, DEFAULT_CACHE_MIB)) << 20


def requested_fidelity(request: Any, domain: str) -> str:
    """Return the FIDELITY of all rows of a request.

    Raises:
        UnknownFidelity: the domain has not this one, or the rows have several.
    """
    tensor = triton.get_input_tensor_by_name(request, wire.FIDELITY.name)
    if tensor is None:
        return limits.LATENT
    first, *others = {value for (value,) in tensor.as_numpy()}
    if others:
        raise UnknownFidelity("the photos of a batch need the same FIDELITY: send one value")
    return parse_fidelity(first, limits.FIDELITIES, domain)


def refusal(error: StyleclipError) -> Any:
    """Return the response of a request with a named error."""
    invalid = isinstance(error, InvalidInput)
    code = triton.TritonError.INVALID_ARG if invalid else triton.TritonError.INTERNAL
    return triton.InferenceResponse(error=triton.TritonError(error.to_wire(), code))
