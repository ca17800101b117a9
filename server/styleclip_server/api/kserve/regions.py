"""Checks of shared memory that a client of this machine asks Triton to open, where allowed.

Triton maps any object of /dev/shm that it may open, its own backends' too, and neither compares
sizes with the object's nor guards the sum of offset and size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from styleclip_server.api.refusals import invalid, restricted

MAX_BYTES = 2**30
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,200}")
# Regions between Triton and its Python steps: of `make serve`, and of a Triton started by hand.
_INTERNAL = ("styleclip_", "triton_python_backend_")
SHARED_MEMORY_FOLDER = Path("/dev/shm")

# Parameters of a tensor.
_REGION = "shared_memory_region"
BYTE_SIZE = "shared_memory_byte_size"
_OFFSET = "shared_memory_offset"


def is_name(name: str) -> bool:
    """Return whether `name` may be the name of a region."""
    return _NAME.fullmatch(name) is not None


def check_registration(name: str, key: str, offset: int, size: int) -> None:
    """Check that `key` is an object of a client with at least `offset` + `size` bytes.

    Raises:
        Refused: it is not.
    """
    file = key.removeprefix("/")
    if not is_name(name) or not is_name(file) or file.startswith((".", *_INTERNAL)):
        raise invalid(f"Unable to open shared memory region: {key[:100]!r} is not a client's name")
    if not (0 <= offset <= MAX_BYTES and 0 < size <= MAX_BYTES):
        raise invalid(f"offset and size of a region are 0 to {MAX_BYTES} bytes")
    try:
        present = (SHARED_MEMORY_FOLDER / file).stat().st_size
    except OSError as error:
        raise invalid(f"Unable to open shared memory region: {error.strerror}") from error
    if offset + size > present:
        raise invalid(f"the shared memory region has {present} bytes, not {offset + size}")


def uses_region(parameters: Mapping[str, Any]) -> bool:
    """Return whether the parameters of a tensor name a region."""
    return _REGION in parameters or BYTE_SIZE in parameters or _OFFSET in parameters


def check_use(parameters: Mapping[str, Any], allowed: bool) -> None:
    """Check the parameters of a tensor in a region.

    Raises:
        Refused: shared memory is not allowed, or a parameter is missing or out of range.
    """
    if not allowed:
        raise restricted("protocol")
    region, size, offset = (parameters.get(name) for name in (_REGION, BYTE_SIZE, _OFFSET))
    if region is None or not is_name(region.string_param):
        raise invalid(f"{_REGION} is not the name of a region")
    if size is None or not 0 < size.int64_param <= MAX_BYTES:
        raise invalid(f"{BYTE_SIZE} is not a number from 1 to {MAX_BYTES}")
    if offset is not None and not 0 <= offset.int64_param <= MAX_BYTES:
        raise invalid(f"{_OFFSET} is not a number from 0 to {MAX_BYTES}")
