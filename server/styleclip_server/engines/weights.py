"""The parameters of a network, read back from its ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper


def read(path: Path) -> dict[str, NDArray[np.generic]]:
    """Name → parameter, as PyTorch names them in the exported file; half precision as float32."""
    graph = onnx.load(str(path)).graph
    found = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for node in graph.node:  # stored as float16, or equal to another parameter
        if node.op_type in ("Cast", "Identity") and node.input[0] in found:
            found[node.output[0]] = found[node.input[0]]
    return {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in found.items()
    }


def below(weights: dict[str, NDArray[np.generic]], prefix: str) -> dict[str, NDArray[np.generic]]:
    """Those whose name begins with `prefix`, without it."""
    return {k[len(prefix) :]: v for k, v in weights.items() if k.startswith(prefix)}
