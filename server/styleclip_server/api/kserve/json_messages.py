"""Inference requests and responses in KServe's JSON, with Triton's binary tensor data extension.

docs/protocol/extension_binary_data.md of triton-inference-server/server: a JSON header, then the
tensors' bytes one after the other. What the JSON says is copied field by field into a message of
gRPC, so that nothing of its text reaches Triton.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
from tritonclient.grpc.service_pb2 import InferParameter, ModelInferRequest, ModelInferResponse

from styleclip_server.api.kserve import regions, tensors
from styleclip_server.api.refusals import invalid

HEADER_LENGTH = b"inference-header-content-length"
JSON_BYTES = 16 * 2**20
JSON_CONTAINERS = 100_000  # arrays and objects
JSON_VALUES = 2**20  # a FACE_CROP has 196,608
_MAX_INT64 = 2**63 - 1
_RANK = 8

JsonObject = dict[str, Any]


def decode_request(
    model: str, version: str, body: bytes, header_length: bytes | None
) -> tuple[ModelInferRequest, BinaryOutputs]:
    """Return the request of a body, and which outputs are requested as binary data.

    Raises:
        Refused: the body violates the protocol.
    """
    end = _json_length(body, header_length)
    document = parse_json(body[:end] if end < len(body) else body)
    request = ModelInferRequest(
        model_name=model, model_version=version, id=_text(document, "id", "")
    )
    parameters = _object(document, "parameters")
    binary = BinaryOutputs(bool(parameters.get("binary_data_output")))
    _set_parameters(request.parameters, parameters, skip="binary_data_output")
    for entry in _objects(document, "inputs"):
        end = _decode_input(request, entry, body, end)
    if end != len(body):
        raise invalid(f"the body has {len(body) - end} bytes that belong to no input")
    for entry in _objects(document, "outputs"):
        output = request.outputs.add(name=_text(entry, "name"))
        parameters = _object(entry, "parameters")
        flag = parameters.get("binary_data")
        if flag is not None:
            binary.by_name[output.name] = bool(flag)
        _set_parameters(output.parameters, parameters, skip="binary_data")
    return request, binary


def _json_length(body: bytes, header_length: bytes | None) -> int:
    if header_length is None:
        return len(body)
    digits = header_length.isdigit() and len(header_length) <= 10
    if not digits or int(header_length) > len(body):
        raise invalid("Inference-Header-Content-Length is not the length of the JSON header")
    return int(header_length)


def _decode_input(request: ModelInferRequest, entry: JsonObject, body: bytes, offset: int) -> int:
    """Add an input, whose binary data would start at `offset`; return the next one's offset."""
    tensor = request.inputs.add(
        name=_text(entry, "name"), datatype=_text(entry, "datatype"), shape=_shape(entry)
    )
    parameters = _object(entry, "parameters")
    _set_parameters(tensor.parameters, parameters, skip="binary_data_size")
    if regions.uses_region(parameters):
        return offset
    size = parameters.get("binary_data_size")
    if size is None:
        request.raw_input_contents.append(_raw(tensor, entry))
        return offset
    if type(size) is not int or not 0 <= size <= len(body) - offset:
        raise invalid(f"binary_data_size of {tensor.name[:100]!r} is beyond the body")
    request.raw_input_contents.append(body[offset : offset + size])
    return offset + size


class BinaryOutputs:
    """Which outputs of a response are binary data."""

    def __init__(self, default: bool) -> None:
        self.default = default
        self.by_name: dict[str, bool] = {}

    def __contains__(self, name: str) -> bool:
        return self.by_name.get(name, self.default)


def encode_response(message: bytes, binary: BinaryOutputs) -> tuple[bytes, int | None]:
    """Return the body of a response, and the length of its JSON header if data follow it."""
    response = ModelInferResponse.FromString(message)
    document: JsonObject = {"id": response.id} if response.id else {}
    document |= {"model_name": response.model_name, "model_version": response.model_version}
    if response.parameters:
        document["parameters"] = _parameters(response.parameters)
    raw = iter(response.raw_output_contents)
    parts: list[bytes] = []
    document["outputs"] = []
    for tensor in response.outputs:
        parameters = _parameters(tensor.parameters)
        entry = {"name": tensor.name, "datatype": tensor.datatype, "shape": list(tensor.shape)}
        if not regions.uses_region(tensor.parameters):
            content = next(raw)
            if tensor.name in binary:
                parts.append(content)
                parameters["binary_data_size"] = len(content)
            else:
                entry["data"] = _data(tensor.name, tensor.datatype, content)
        if parameters:
            entry["parameters"] = parameters
        document["outputs"].append(entry)
    header = orjson.dumps(document)
    return b"".join([header, *parts]), len(header) if parts else None


def parse_json(text: bytes) -> JsonObject:
    """Parse a JSON object in bounded memory. orjson bounds the depth.

    Raises:
        Refused: it is too large, not JSON, or not an object.
    """
    if len(text) > JSON_BYTES:
        raise invalid(
            f"the JSON has more than {JSON_BYTES >> 20} MiB: send large tensors as binary data"
        )
    if text.count(b"[") + text.count(b"{") > JSON_CONTAINERS:
        raise invalid(f"the JSON has more than {JSON_CONTAINERS} arrays and objects")
    if text.count(b",") > JSON_VALUES:
        raise invalid(
            f"the JSON has more than {JSON_VALUES} values: send large tensors as binary data"
        )
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise invalid(f"failed to parse the request JSON buffer: {error}") from None
    if not isinstance(document, dict):
        raise invalid("the request is not a JSON object")
    return document


def _data(name: str, datatype: str, content: bytes) -> list[Any]:
    values = list(tensors.from_raw(datatype, content))
    if datatype != "BYTES":
        return values
    try:
        return [value.decode() for value in values]
    except UnicodeDecodeError:
        raise invalid(
            f"{name} is not text: request it with "
            '"parameters": {"binary_data": true}, or all outputs with "binary_data_output"'
        ) from None


def _raw(tensor: ModelInferRequest.InferInputTensor, entry: JsonObject) -> bytes:
    """Return the `data` of an input as raw bytes."""
    data = entry.get("data")
    if tensor.datatype not in tensors.TYPES:
        raise invalid(f"{tensor.name[:100]!r} has the unknown type {tensor.datatype[:20]!r}")
    if not isinstance(data, list):
        raise invalid(f"{tensor.name[:100]!r} has no data: an array, or binary_data_size")
    values = list(_flatten(data, _RANK))
    if tensor.datatype == "BYTES":
        if not all(isinstance(value, str) for value in values):
            raise invalid(f"the data of {tensor.name[:100]!r} are not all strings")
        values = [value.encode() for value in values]
    elif any(isinstance(value, bool) != (tensor.datatype == "BOOL") for value in values):
        raise invalid(f"the data of {tensor.name[:100]!r} are not all of type {tensor.datatype}")
    return tensors.to_raw(tensor.name, tensor.datatype, values)


def _flatten(data: list[Any], rank: int) -> Iterator[Any]:
    """Yield the numbers or strings of nested arrays, in their order."""
    if data and isinstance(data[0], list):
        if rank == 1:
            raise invalid(f"the data are nested more than {_RANK} deep")
        for part in data:
            if not isinstance(part, list):
                raise invalid("the data mix arrays and values")
            yield from _flatten(part, rank - 1)
    else:
        yield from data


def _text(entry: JsonObject, key: str, default: str | None = None) -> str:
    value = entry.get(key, default)
    if not isinstance(value, str):
        raise invalid(f"{key!r} is missing or not a string")
    return value


def _shape(entry: JsonObject) -> list[int]:
    shape = entry.get("shape")
    if (
        not isinstance(shape, list)
        or len(shape) > _RANK
        or not all(type(side) is int and 0 <= side <= _MAX_INT64 for side in shape)
    ):
        raise invalid(f"'shape' is not an array of at most {_RANK} numbers from 0 to 2^63 - 1")
    return shape


def _object(entry: JsonObject, key: str) -> JsonObject:
    value = entry.get(key, {})
    if not isinstance(value, dict):
        raise invalid(f"{key!r} is not an object")
    return value


def _objects(entry: JsonObject, key: str) -> list[JsonObject]:
    value = entry.get(key, [])
    if (
        not isinstance(value, list)
        or len(value) > 64
        or not all(isinstance(each, dict) for each in value)
    ):
        raise invalid(f"{key!r} is not an array of at most 64 objects")
    return value


def _set_parameters(parameters: Any, values: JsonObject, skip: str) -> None:
    for name, value in values.items():
        if name == skip:
            continue
        parameter = parameters[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int) and -_MAX_INT64 <= value <= _MAX_INT64:
            parameter.int64_param = value
        elif isinstance(value, str):
            parameter.string_param = value
        elif isinstance(value, float):
            parameter.double_param = value
        else:
            raise invalid(f"the parameter {name[:100]!r} is not a bool, number or string")


def _parameters(parameters: Any) -> JsonObject:
    return {name: _parameter(value) for name, value in parameters.items()}


def _parameter(value: InferParameter) -> Any:
    kind = value.WhichOneof("parameter_choice")
    return None if kind is None else getattr(value, kind)
