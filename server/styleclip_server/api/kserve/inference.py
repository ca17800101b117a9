"""Checks of an inference request against the model's own configuration, for both protocols.

What passes has only fields that the protocol defines, and every tensor as raw bytes of exactly the
size that its shape states, or in a region of shared memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from google.protobuf.message import DecodeError
from tritonclient.grpc.model_config_pb2 import DataType, ModelConfig
from tritonclient.grpc.service_pb2 import ModelInferRequest

from styleclip_contract.errors import InvalidLatent
from styleclip_contract.wire import W_PLUS
from styleclip_server.api.kserve import regions, tensors
from styleclip_server.api.refusals import Refused, invalid

# Parsed, a message takes up to 32 times its bytes, except for raw tensors.
STRUCTURE_BYTES = 4 * 2**20
FORM_BYTES = 4096  # of a form that is compared with others
_FIELDS = 512  # of a message; a request of ours has about 30
# The first byte of these fields: a number below 16, and the type of fields with a length.
_RAW_CONTENTS, _ID = (
    ModelInferRequest.DESCRIPTOR.fields_by_name[name].number << 3 | 2
    for name in ("raw_input_contents", "id")
)

ID_CHARACTERS = 1024
_VERSION = re.compile(r"[0-9]{0,9}")
_PARAMETERS = 16
_PARAMETER_CHARACTERS = 256
_CLASSES = 1000


class WireForm(NamedTuple):
    """The top-level fields of a message of gRPC.

    Attributes:
        structure: those that are neither the id nor raw contents of tensors, joined; empty if they
            have more than FORM_BYTES.
        contents: where each raw content starts and ends.
    """

    structure: bytes
    contents: Sequence[tuple[int, int]]
    id: bytes


def parse(message: bytes) -> ModelInferRequest:
    """Parse a message of gRPC, of which `read_form` has bounded the memory.

    Raises:
        Refused: it is not a ModelInferRequest.
    """
    request = ModelInferRequest()
    try:
        request.ParseFromString(message)
    except DecodeError as error:
        raise _not_a_request() from error
    request.DiscardUnknownFields()
    return request


def _not_a_request() -> Refused:
    return invalid("the message is not a ModelInferRequest")


def read_form(message: bytes) -> WireForm:
    """Read the top-level fields of a message of gRPC, without parsing what is in them.

    Raises:
        Refused: it is not a ModelInferRequest, has too many fields, or too many bytes outside of
            raw tensors.
    """
    offset, end, fields, structure, identifier = 0, len(message), 0, 0, b""
    parts: list[bytes] = []
    contents: list[tuple[int, int]] = []
    try:
        while offset < end:
            start = offset
            tag, first, offset = _read_field(message, offset)
            fields += 1
            if fields > _FIELDS:
                raise invalid(f"the message has more than {_FIELDS} fields")
            if tag == _RAW_CONTENTS:
                contents.append((first, offset))
                continue
            structure += offset - start
            if structure > FORM_BYTES:
                parts.clear()
            elif tag == _ID and not identifier:
                identifier = message[first:offset]
            else:
                parts.append(message[start:offset])
    except IndexError:
        raise _not_a_request() from None
    if offset > end:
        raise _not_a_request()
    if structure > STRUCTURE_BYTES:
        raise invalid(
            f"more than {STRUCTURE_BYTES >> 20} MiB outside raw_input_contents: "
            "send large tensors there"
        )
    return WireForm(b"".join(parts), contents, identifier)


def _read_field(message: bytes, offset: int) -> tuple[int, int, int]:
    """Return the tag of the field at `offset`, and where its content starts and ends."""
    tag, content = message[offset], offset + 1
    if tag >= 0x80:
        tag, content = _read_varint(message, offset)
    number, end = message[content], content + 1
    if number >= 0x80:
        number, end = _read_varint(message, content)
    if tag & 7 == 2:  # the number is a length
        return tag, end, end + number
    if tag & 7 == 0:
        return tag, content, end
    raise _not_a_request()


def _read_varint(message: bytes, offset: int) -> tuple[int, int]:
    """Return the number at `offset` and the offset after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = message[offset]
        offset += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, offset
    raise IndexError


@dataclass(frozen=True)
class InputSpec:
    """What a model's configuration says of an input; a side of -1 is any."""

    datatype: str
    dims: tuple[int, ...]
    is_optional: bool


@dataclass(frozen=True)
class ModelInterface:
    """What requests of a model are compared with; read from its configuration once."""

    inputs: Mapping[str, InputSpec]
    outputs: tuple[str, ...]
    max_batch: int

    @classmethod
    def of(cls, config: ModelConfig) -> ModelInterface:
        """Return the interface of a model."""
        inputs = {
            tensor.name: InputSpec(
                DataType.Name(tensor.data_type).removeprefix("TYPE_").replace("STRING", "BYTES"),
                tuple(tensor.dims),
                tensor.optional,
            )
            for tensor in config.input
        }
        return cls(inputs, tuple(output.name for output in config.output), config.max_batch_size)


def check(
    request: ModelInferRequest, interface: ModelInterface, *, allow_shared_memory: bool
) -> int:
    """Check `request` against the model's interface, and make all of its tensors raw.

    Returns:
        The rows of the batch.

    Raises:
        Refused: with what was wrong and what was expected.
    """
    if len(request.id) > ID_CHARACTERS:
        raise invalid(f"the id has more than {ID_CHARACTERS} characters")
    if not _VERSION.fullmatch(request.model_version):
        raise invalid(f"{request.model_version[:20]!r} is not the number of a model's version")
    for message in (request, *request.inputs, *request.outputs):
        if parameters := message.parameters:
            _check_parameters(parameters, allow_shared_memory)
    _check_outputs(request, interface)
    names = [tensor.name for tensor in request.inputs]
    _check_names("input", names, interface.inputs)
    for name, spec in interface.inputs.items():
        if not spec.is_optional and name not in names:
            raise invalid(f"the input {name} of model {request.model_name!r} is missing")
    return _check_inputs(request, interface)


def _check_parameters(parameters: Mapping[str, Any], allow_shared_memory: bool) -> None:
    if len(parameters) > _PARAMETERS:
        raise invalid(f"more than {_PARAMETERS} parameters")
    for name, value in parameters.items():
        if len(name) > _PARAMETER_CHARACTERS or len(value.string_param) > _PARAMETER_CHARACTERS:
            raise invalid(f"a parameter has more than {_PARAMETER_CHARACTERS} characters")
    if regions.uses_region(parameters):
        regions.check_use(parameters, allow_shared_memory)


def _check_outputs(request: ModelInferRequest, interface: ModelInterface) -> None:
    _check_names("output", [output.name for output in request.outputs], interface.outputs)
    for output in request.outputs:
        classes = output.parameters.get("classification")
        if classes is not None and not 0 < classes.int64_param <= _CLASSES:
            raise invalid(f"classification is not a number from 1 to {_CLASSES}")


def _check_names(kind: str, names: Sequence[str], known: Collection[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name not in known:
            raise invalid(
                f"unexpected inference {kind} {name[:100]!r}: the model has {', '.join(known)}"
            )
        if name in seen:
            raise invalid(f"the {kind} {name} is given twice")
        seen.add(name)


def _check_inputs(request: ModelInferRequest, interface: ModelInterface) -> int:
    raw = _raw_contents(request)
    rows, contents = set(), []
    for tensor in request.inputs:
        shape = _check_shape(tensor, interface.inputs[tensor.name], interface.max_batch)
        count = math.prod(shape)
        rows.add(shape[0] if interface.max_batch else 1)
        if regions.uses_region(tensor.parameters):
            _check_region(tensor, count)
        else:
            contents.append(_take_content(tensor, count, raw))
    if raw and next(raw, None) is not None:
        raise invalid("raw_input_contents has more entries than there are inputs without a region")
    if len(rows) > 1:
        raise invalid(f"the inputs have different batch sizes: {sorted(rows)}")
    if raw is None:
        request.raw_input_contents.extend(contents)
    return rows.pop() if rows else 1


def _raw_contents(request: ModelInferRequest) -> Iterator[bytes] | None:
    """Return the raw contents; None if the contents are typed. Triton takes either."""
    if not any(tensor.HasField("contents") for tensor in request.inputs):
        return iter(request.raw_input_contents)
    if request.raw_input_contents:
        raise invalid("contents and raw_input_contents are both given")
    return None


def _check_region(tensor: ModelInferRequest.InferInputTensor, count: int) -> None:
    size = tensors.byte_size(tensor.datatype, count)
    if size not in (None, tensor.parameters[regions.BYTE_SIZE].int64_param):
        raise invalid(f"the shape of {tensor.name} needs {size} bytes of its region")


def _take_content(
    tensor: ModelInferRequest.InferInputTensor, count: int, raw: Iterator[bytes] | None
) -> bytes:
    """Return the bytes of a tensor, from `raw` or from its typed contents, which are removed."""
    if raw is None:
        content = tensors.contents_to_raw(tensor, count)
        tensor.ClearField("contents")
    else:
        following = next(raw, None)
        if following is None:
            raise invalid(f"the input {tensor.name} has no data")
        content = following
    tensors.check_content(tensor.name, tensor.datatype, count, content)
    return content


def _check_shape(
    tensor: ModelInferRequest.InferInputTensor, expected: InputSpec, max_batch: int
) -> list[int]:
    """Check type and shape; return the shape."""
    if tensor.datatype != expected.datatype:
        raise invalid(f"{tensor.name} is {tensor.datatype[:20]!r}; {expected.datatype} is expected")
    shape: list[int] = tensor.shape[:]
    sides = shape[1:] if max_batch else shape
    if not _fit(sides, expected.dims) or (max_batch and not (shape and 1 <= shape[0] <= max_batch)):
        dims = [f"1 to {max_batch}"] * bool(max_batch)
        dims += ["any" if dim < 0 else str(dim) for dim in expected.dims]
        message = f"{tensor.name} has the shape {shape[:8]}; expected is [{', '.join(dims)}]"
        named = InvalidLatent(message).to_wire() if tensor.name == W_PLUS.name else message
        raise invalid(named)
    return shape


def _fit(sides: Sequence[int], dims: Sequence[int]) -> bool:
    """Return whether the sides are those of a model's dimensions, of which -1 is any."""
    if len(sides) != len(dims):
        return False
    most = tensors.MAX_TEXTS if len(dims) == 1 else math.inf
    for side, dim in zip(sides, dims, strict=True):
        if side != dim and not (dim == -1 and 0 <= side <= most):
            return False
    return True
