"""Weights that ONNX files take from that of another network, in another folder.

ONNX Runtime and OpenVINO read external weights from the folder of the ONNX file only; these are
passed to them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Places = Mapping[str, tuple[str, list[int], int]]
"""Weight's name → dtype, shape, and the offset of its bytes in a file."""


@dataclass(frozen=True)
class SharedWeights:
    """Which weights lie in another file, and where.

    Attributes:
        file: path of that file, relative to the folder of this description.
        sha256: of that file.
        weights: ONNX file → where its weights are.
    """

    file: str
    sha256: str
    weights: Mapping[str, Places]

    def write(self, path: Path) -> None:
        """Write a JSON file for `read_shared_weights`."""
        path.write_text(json.dumps(asdict(self)) + "\n", "utf-8")


def read_shared_weights(path: Path, onnx_file: str) -> dict[str, NDArray[Any]]:
    """Read an ONNX file's weights that a JSON file describes; none where there is no such file.

    Raises:
        ValueError: the other file is not the one that the weights were shared with.
    """
    if not path.is_file():
        return {}
    shared = SharedWeights(**json.loads(path.read_text("utf-8")))
    other = path.resolve().parent / shared.file
    data = other.read_bytes()
    if hashlib.sha256(data).hexdigest() != shared.sha256:
        raise ValueError(f"{path} belongs to another {other.name} than {other}")
    return read_places(data, shared.weights.get(onnx_file, {}))


def read_places(data: bytes, places: Places) -> dict[str, NDArray[Any]]:
    """Return the weights that lie at these places of a file's bytes."""
    return {
        name: np.frombuffer(data, dtype, int(np.prod(shape)), offset).reshape(shape)
        for name, (dtype, shape, offset) in places.items()
    }
