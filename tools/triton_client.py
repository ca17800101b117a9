"""Calls of single models with Triton's own client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tritonclient.grpc import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import triton_to_np_dtype

from styleclip_contract.wire import Model


def infer(
    connection: InferenceServerClient,
    model: Model,
    tensors: Mapping[str, Any],
    outputs: Sequence[str] | None = None,
    timeout: float | None = None,
) -> dict[str, np.ndarray]:
    """Run a model once.

    Args:
        tensors: by name, (N, …); those that are not inputs of the model are left out.
        outputs: the outputs to request; None: all.
        timeout: in seconds.

    Returns:
        The outputs by name, (N, …).
    """
    inputs = []
    for tensor in model.inputs:
        if tensor.name in tensors:
            array = np.asarray(tensors[tensor.name], triton_to_np_dtype(tensor.datatype))
            inputs.append(InferInput(tensor.name, list(array.shape), tensor.datatype))
            inputs[-1].set_data_from_numpy(array)
    requested = outputs and [InferRequestedOutput(name) for name in outputs]
    result = connection.infer(model.name, inputs, outputs=requested, client_timeout=timeout)
    return {output.name: result.as_numpy(output.name) for output in result.get_response().outputs}
