"""The parameters of the networks that edit features, read from the two ONNX files of a domain.

Nothing of the graphs is executed: each weight has its PyTorch name.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from styleclip_server.engines.model_files import (
    FACE_TO_FEATURES_FILE,
    FEATURES_TO_IMAGE_FILE,
    SHARED_WEIGHTS_FILE,
)
from styleclip_server.engines.shared_weights import read_shared_weights
from styleclip_server.engines.weights import read_parameters

FILES = (FACE_TO_FEATURES_FILE, FEATURES_TO_IMAGE_FILE)
_GENERATOR = "generator."
_NETWORKS = (  # a weight of each
    "inverter.fs_backbone.conv.0.weight",
    "inverter.fuser.conv.weight",
    "editor.conv.weight",
)


def read_feature_weights(folder: Path) -> dict[str, NDArray[np.generic]]:
    """Read the parameters in both files.

    Returns:
        Arrays by the names `inverter.*`, `editor.*`, of an inverter that predicts latents `w_avg`,
        and `generator.*` where they do not lie in the file of `stylegan2`; see `read_parameters`.

    Raises:
        OSError: a file is missing.
        ValueError: the files lack a network, or belong to another `stylegan2`.
    """
    parameters: dict[str, NDArray[np.generic]] = {}
    for file in FILES:
        read_shared_weights(folder / SHARED_WEIGHTS_FILE, file)  # checks the file of `stylegan2`
        parameters |= read_parameters(folder / file, external=False)
    for name in _NETWORKS:
        if name not in parameters:
            raise ValueError(f"{folder} has no {name}")
    return parameters


def check_feature_weights(folder: Path, stylegan2: Path) -> None:
    """Check that the two files have the networks, and continue from this generator.

    Args:
        stylegan2: the ONNX file of the domain's generator.

    Raises:
        OSError, ValueError: see `read_feature_weights`.
    """
    parameters, generator = read_feature_weights(folder), read_parameters(stylegan2)
    for name, array in parameters.items():
        if name.startswith(_GENERATOR) and not np.array_equal(array, generator[name]):
            raise ValueError(f"{folder} belongs to another generator: its {name} differs")
