"""Shared by the readers of NVIDIA's pickles: layer names, supported settings, the result."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from styleclip_export.checkpoints.pickled_arrays import empty_dict
from styleclip_export.checkpoints.unpickler import (
    AllowedGlobals,
    InertObject,
    UnsupportedFile,
    short_repr,
)

MAX_NESTING = 8  # of networks within networks
MAPPING_LR_MULTIPLIER = 0.01  # part of the arithmetic of our mapping network

# Parameter of a layer → (our name under the layer's, conversion into our layout).
ParameterTable = dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]]
CONVOLUTION_PARAMETERS: ParameterTable = {
    "bias": ("activate.bias", lambda array: array),
    "noise_strength": ("noise.weight", lambda array: array.reshape(1)),
}
TO_RGB_PARAMETERS: ParameterTable = {
    "bias": ("bias", lambda array: array.reshape(1, -1, 1, 1)),
}


@dataclass
class TranslatedGenerator:
    """A generator of another project, under our names.

    Attributes:
        layout: the kind of file.
        arrays: views of the file where possible; resampling filters may be left out.
        notes: what a user should know about the network.
    """

    layout: str
    arrays: dict[str, np.ndarray]
    w_avg: np.ndarray | None
    notes: list[str] = field(default_factory=list)


def persistent_object(meta: Any) -> InertObject:
    """Return an object as `torch_utils.persistence` pickles it."""
    if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
        raise UnsupportedFile("it contains a persistent object of an unknown form")
    module = InertObject(short_repr(meta.get("class_name")))
    module.state = meta["state"]
    return module


PERSISTENCE_GLOBALS: AllowedGlobals = {
    "dnnlib.util.EasyDict": empty_dict,
    "torch_utils.persistence._reconstruct_persistent_obj": persistent_object,
}


def require(setting: str, value: Any, *supported: Any) -> None:
    """Raise UnsupportedFile unless a setting of the network has a supported value."""
    if value not in supported:
        raise UnsupportedFile(
            f"its {setting} is {short_repr(value)}, and only {supported[0]!r} is supported"
        )


def unknown_parameter(network: str, name: str) -> UnsupportedFile:
    """Return the error for a parameter that StyleGAN2 does not have."""
    return UnsupportedFile(f"its {network} network has an unknown {name[:60]!r}")


def layer_name(resolution: int, kind: str) -> str:
    """Return our name of the layer conv0, conv1 or torgb at a resolution."""
    block = int(math.log2(resolution)) - 3  # -1 at 4 px, which has no conv0
    if resolution != 2 ** (block + 3) or not -1 <= block <= 7 or (kind == "conv0" and block < 0):
        raise UnsupportedFile(f"it has a {kind} of {resolution} px")
    if block < 0:
        return "to_rgb1" if kind == "torgb" else "conv1"
    if kind == "torgb":
        return f"to_rgbs.{block}"
    return f"convs.{2 * block + int(kind == 'conv1')}"


def noise_name(layer: str) -> str:
    """Return our name of the constant noise of a convolution."""
    index = 0 if layer == "conv1" else int(layer.removeprefix("convs.")) + 1
    return f"noises.noise_{index}"
