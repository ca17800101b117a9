"""The parameters of a network, read from its ONNX file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import external_data_helper, numpy_helper


def read_parameters(path: Path, external: bool = True) -> dict[str, NDArray[np.generic]]:
    """Read every parameter of the ONNX file at `path`.

    Args:
        external: also those whose data is in other files.

    Returns:
        Arrays by the names that PyTorch gave them; half precision is returned as float32.
    """
    graph = onnx.load(str(path), load_external_data=external).graph
    parameters = {
        t.name: numpy_helper.to_array(t)
        for t in graph.initializer
        if external or not external_data_helper.uses_external_data(t)
    }
    # A parameter stored as float16 (`onnx_export.store_as_float16`), or equal to another one, has
    # its name on the output of the Cast or Identity that reads it.
    for node in graph.node:
        if node.op_type in ("Cast", "Identity") and node.input[0] in parameters:
            parameters[node.output[0]] = parameters[node.input[0]]
    return {
        name: array.astype(np.float32) if array.dtype == np.float16 else array
        for name, array in parameters.items()
    }
