"""Tensors in the bodies of the HTTP protocol.

KServe v2 with Triton's binary tensor data extension
(docs/protocol/extension_binary_data.md of triton-inference-server/server): a JSON header, then
the tensors' bytes one after the other. An HTTP header has the length of the JSON.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tritonclient.utils import deserialize_bytes_tensor, serialize_byte_tensor

from styleclip_client.protocol import DTYPES, InferRequest, MemoryRegion, Tensors
from styleclip_contract.errors import ServerError

JSON_LENGTH = "Inference-Header-Content-Length"


def encode(request: InferRequest, request_id: str) -> tuple[dict[str, str], bytes]:
    """Return the headers and the body of `request`."""
    entries: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for tensor in request.model.inputs:
        if tensor.name not in request.tensors:
            continue
        array = request.tensors[tensor.name]
        if region := request.regions.get(tensor.name):
            parameters = _in_region(region, array.nbytes)
        else:
            if tensor.datatype == "BYTES":
                parts.append(serialize_byte_tensor(array).item())
            else:
                parts.append(np.ascontiguousarray(array).tobytes())
            parameters = {"binary_data_size": len(parts[-1])}
        entries.append(
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(array.shape),
                "parameters": parameters,
            }
        )
    content: dict[str, Any] = {"id": request_id, "inputs": entries, "outputs": []}
    for tensor in request.model.outputs:
        region = request.regions.get(tensor.name)
        parameters = _in_region(region, region.size) if region else {"binary_data": True}
        content["outputs"].append({"name": tensor.name, "parameters": parameters})
    header = json.dumps(content).encode()
    headers = {JSON_LENGTH: str(len(header)), "Content-Type": "application/octet-stream"}
    return headers, b"".join([header, *parts])


def _in_region(region: MemoryRegion, size: int) -> dict[str, Any]:
    return {"shared_memory_region": region.name, "shared_memory_byte_size": size}


def decode(request: InferRequest, body: bytes, json_length: str | None) -> Tensors:
    """Return the tensors of a response to `request`.

    Args:
        request: the request that was sent.
        body: the body of the response.
        json_length: the value of its header JSON_LENGTH, if it has one.

    Raises:
        ServerError: the response is damaged.
    """
    try:
        end = len(body) if json_length is None else int(json_length)
        tensors: Tensors = {}
        for entry in json.loads(body[:end])["outputs"]:
            datatype, shape = entry["datatype"], [int(side) for side in entry["shape"]]
            if region := request.regions.get(entry["name"]):
                tensors[str(entry["name"])] = region.view(shape, DTYPES[datatype])
                continue
            size = int(entry["parameters"]["binary_data_size"])
            data, end = body[end : end + size], end + size
            if datatype == "BYTES":
                array: NDArray[Any] = deserialize_bytes_tensor(data)
            else:
                array = np.frombuffer(data, DTYPES[datatype])
            tensors[str(entry["name"])] = array.reshape(shape)
    except Exception as error:  # json, numpy, struct and int each have their own
        raise ServerError(f"the response violates the KServe v2 protocol: {error}") from error
    return tensors
