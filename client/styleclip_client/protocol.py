"""Requests to the server, independent of the transport that carries them.

Methods are named as in tritonclient's gRPC client; paths are those of the KServe v2 protocol with
Triton's extensions (docs/protocol of triton-inference-server/server). Responses have the shape
of the HTTP protocol's JSON.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from styleclip_contract.errors import ServerError
from styleclip_contract.wire import Model

Tensors: TypeAlias = dict[str, NDArray[Any]]  # by name, the batch dimension first

# By Triton's datatype. BYTES is missing: an array of objects over memory that a server has written
# would contain pointers of its choice.
DTYPES: Mapping[str, type[np.generic]] = {
    "BOOL": np.bool_,
    "FP32": np.float32,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
}


class MemoryRegion(Protocol):
    """Memory of `size` bytes that client and server share under `name`."""

    name: str
    size: int

    def view(self, shape: Iterable[int], dtype: Any) -> NDArray[Any]:
        """Return an array of this shape and dtype that starts at the region's first byte."""


@dataclass(frozen=True)
class InferRequest:
    """Run `model` on `tensors`; the response is all of its outputs as `Tensors`.

    Attributes:
        model: the model to run.
        tensors: its inputs.
        regions: inputs and outputs, by name, that are passed in shared memory.
        id: identifies the request in the server's log and traces, the same in every attempt.
        sequence: Triton's correlation id, over gRPC; 0: none.
    """

    model: Model
    tensors: Tensors
    regions: Mapping[str, MemoryRegion] = field(default_factory=dict)
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    sequence: int = 0


@dataclass(frozen=True)
class AdminRequest:
    """A request about the server itself, such as its health or a model's configuration.

    Attributes:
        method: method of tritonclient's gRPC client.
        path: path over HTTP.
        verb: HTTP method.
        arguments: arguments of the gRPC method; over HTTP a POST carries them, except the name.
        is_boolean: the response is a bool; otherwise it is JSON.
    """

    method: str
    path: str
    verb: str = "GET"
    arguments: Mapping[str, Any] = field(default_factory=dict)
    is_boolean: bool = False


Request: TypeAlias = "InferRequest | AdminRequest"

LIVE = AdminRequest("is_server_live", "v2/health/live", is_boolean=True)
READY = AdminRequest("is_server_ready", "v2/health/ready", is_boolean=True)
METADATA = AdminRequest("get_server_metadata", "v2")
INDEX = AdminRequest("get_model_repository_index", "v2/repository/index", "POST")
STATISTICS = AdminRequest("get_inference_statistics", "v2/models/stats")


def model_config(model: Model) -> AdminRequest:
    """Build the request for the configuration of `model`."""
    return AdminRequest(
        "get_model_config",
        f"v2/models/{model.name}/config",
        arguments={"model_name": model.name},
    )


def register_region(region: MemoryRegion) -> AdminRequest:
    """Build the request that opens `region` on the server."""
    return AdminRequest(
        "register_system_shared_memory",
        f"v2/systemsharedmemory/region/{region.name}/register",
        "POST",
        {"name": region.name, "key": f"/{region.name}", "byte_size": region.size},
    )


def unregister_region(region: MemoryRegion) -> AdminRequest:
    """Build the request that closes `region` on the server."""
    return AdminRequest(
        "unregister_system_shared_memory",
        f"v2/systemsharedmemory/region/{region.name}/unregister",
        "POST",
        {"name": region.name},
    )


def check_outputs(model: Model, response: Mapping[str, NDArray[Any] | None]) -> Tensors:
    """Return all outputs of `model` from `response`.

    Raises:
        ServerError: an output is missing or is not a batch of one.
    """
    outputs: Tensors = {}
    for tensor in model.outputs:
        array = response.get(tensor.name)
        if array is None or array.ndim == 0 or len(array) != 1:
            raise ServerError(f"{model.name} answered without {tensor.name}")
        outputs[tensor.name] = array
    return outputs
