"""safetensors files: a header of JSON, then the numbers.

Layout: huggingface/safetensors, README.md, section "Format".
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from styleclip_export.checkpoints.pickled_arrays import (
    BFLOAT16,
    FileArray,
    Storage,
    contiguous_strides,
)
from styleclip_export.checkpoints.unpickler import UnsupportedFile
from styleclip_export.file_kinds import MAX_SAFETENSORS_HEADER

METADATA = "__metadata__"
_MAX_TENSORS = 20_000
_DTYPES: dict[str, str | np.dtype[Any]] = {
    "BF16": BFLOAT16,
    "F16": "<f2",
    "F32": "<f4",
    "F64": "<f8",
    "I8": "<i1",
    "I16": "<i2",
    "I32": "<i4",
    "I64": "<i8",
    "U8": "<u1",
    "BOOL": "|b1",
}


def read(data: memoryview) -> dict[str, Any]:
    """Read the tensors by name, and the texts of the header's metadata under "opts".

    Raises:
        UnsupportedFile: the file is damaged, or a tensor claims more than it has.
    """
    (size,) = struct.unpack("<Q", data[:8])
    if size > min(MAX_SAFETENSORS_HEADER, len(data) - 8):
        raise UnsupportedFile(f"its header claims {size:,} bytes")
    header = json.loads(bytes(data[8 : 8 + size]))
    if not isinstance(header, dict) or len(header) > _MAX_TENSORS:
        raise UnsupportedFile("its header is not a table of tensors")
    options = header.pop(METADATA, {})
    numbers = data[8 + size :]
    return {"opts": options, **{name: _array(entry, numbers) for name, entry in header.items()}}


def _array(entry: Any, numbers: memoryview) -> FileArray:
    dtype = _DTYPES.get(str(entry["dtype"]))
    if dtype is None:
        raise UnsupportedFile(f"it contains tensors of the type {str(entry['dtype'])[:20]!r}")
    shape, (start, end) = tuple(entry["shape"]), entry["data_offsets"]
    if not (type(start) is type(end) is int and 0 <= start <= end <= len(numbers)):
        raise UnsupportedFile("a tensor is outside the file")
    array = FileArray(Storage(dtype, numbers[start:end]), 0, shape, contiguous_strides(shape))
    if array.nbytes != end - start:
        raise UnsupportedFile("a tensor has more or fewer bytes than its shape")
    return array
