"""The content of a file with tensors, whatever wrote it: PyTorch or safetensors."""

from __future__ import annotations

from typing import Any

from styleclip_export.checkpoints import safetensors_file, torch_file
from styleclip_export.file_kinds import HEAD_BYTES, FileKind, is_kind

KINDS: tuple[FileKind, ...] = ("torch", "safetensors")


def read(data: memoryview) -> Any:
    """Read plain data with a `FileArray` for each tensor.

    Raises:
        UnsupportedFile: the file is not of these kinds, or is damaged or hostile.
    """
    if is_kind(bytes(data[:HEAD_BYTES]), "safetensors"):
        return safetensors_file.read(data)
    return torch_file.read(data)
