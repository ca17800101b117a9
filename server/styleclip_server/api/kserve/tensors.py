"""Sizes and contents of the tensors of a request."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from tritonclient.grpc import service_pb2

from styleclip_server.api.refusals import invalid

MAX_TEXTS = 1024  # elements of a tensor with one entry per edit, or of type BYTES


class _Type(NamedTuple):
    """A datatype: NumPy's name, the bytes of an element, the field of InferTensorContents."""

    numpy: str
    size: int
    field: str


TYPES = {
    "BOOL": _Type("?", 1, "bool_contents"),
    "UINT8": _Type("u1", 1, "uint_contents"),
    "INT32": _Type("<i4", 4, "int_contents"),
    "INT64": _Type("<i8", 8, "int64_contents"),
    "FP32": _Type("<f4", 4, "fp32_contents"),
    "BYTES": _Type("O", 0, "bytes_contents"),
}


def byte_size(datatype: str, count: int) -> int | None:
    """Return the bytes of `count` elements; None for BYTES, whose elements have lengths."""
    return None if datatype == "BYTES" else count * TYPES[datatype].size


def check_content(name: str, datatype: str, count: int, content: bytes) -> None:
    """Check that raw `content` is exactly `count` elements.

    Raises:
        Refused: it is not.
    """
    size = byte_size(datatype, count)
    if size is None:
        _check_texts(name, count, content)
    elif len(content) != size:
        raise invalid(f"{name} has {len(content)} bytes, but its shape needs {size}")


def _check_texts(name: str, count: int, content: bytes) -> None:
    if count > MAX_TEXTS:
        raise invalid(f"{name} has {count} elements; at most {MAX_TEXTS} are accepted")
    offset = elements = 0
    while offset < len(content) and elements <= count:
        if len(content) - offset < 4:
            break
        offset += 4 + int(struct.unpack_from("<I", content, offset)[0])
        elements += 1
    if offset != len(content) or elements != count:
        raise invalid(f"the bytes of {name} are not {count} elements with their lengths")


def to_raw(name: str, datatype: str, values: Iterable[Any]) -> bytes:
    """Return numbers, bools or byte strings as raw bytes.

    Raises:
        Refused: a value is not of the type.
    """
    if datatype == "BYTES":
        return b"".join(struct.pack("<I", len(value)) + value for value in values)
    array = np.asarray(values)
    if array.size == 0:
        return b""
    kinds = {"BOOL": "b", "FP32": "iuf"}.get(datatype, "iu")
    if array.ndim != 1 or array.dtype.kind not in kinds:
        raise invalid(f"the data of {name} are not all of type {datatype}")
    dtype = np.dtype(TYPES[datatype].numpy)
    if dtype.kind in "iu":
        bounds = np.iinfo(dtype)
        if array.min() < bounds.min or array.max() > bounds.max:
            raise invalid(f"the data of {name} are beyond the range of {datatype}")
    with np.errstate(over="ignore"):  # infinity, which the models refuse by name
        return array.astype(dtype).tobytes()


def contents_to_raw(tensor: service_pb2.ModelInferRequest.InferInputTensor, count: int) -> bytes:
    """Return the `count` typed contents of a tensor as raw bytes.

    Raises:
        Refused: the contents are of another type or number.
    """
    expected = TYPES[tensor.datatype].field
    for field, _ in tensor.contents.ListFields():
        if field.name != expected:
            raise invalid(f"{tensor.name} has {field.name}, but its type is {tensor.datatype}")
    values = getattr(tensor.contents, expected)
    if len(values) != count:
        raise invalid(f"{tensor.name} has {len(values)} values, but its shape needs {count}")
    return to_raw(tensor.name, tensor.datatype, values)


def from_raw(datatype: str, content: bytes) -> Sequence[Any]:
    """Return raw bytes as a list of numbers, bools or byte strings."""
    if datatype == "BYTES":
        texts, offset = [], 0
        while offset < len(content):
            end = offset + 4 + int(struct.unpack_from("<I", content, offset)[0])
            texts.append(content[offset + 4 : end])
            offset = end
        return texts
    values: list[Any] = np.frombuffer(content, TYPES[datatype].numpy).tolist()
    return values
