"""Generators in NVIDIA's TensorFlow pickles.

Layout: `dnnlib/tflib/network.py` and `training/networks_stylegan2.py` of NVlabs/stylegan2. Compared
with our network, kernels of upsampling convolutions are flipped, and the bias of affine layers is
stored less 1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from styleclip_export.checkpoints import state_dicts
from styleclip_export.checkpoints.nvidia_common import (
    CONVOLUTION_PARAMETERS,
    MAPPING_LR_MULTIPLIER,
    MAX_NESTING,
    TO_RGB_PARAMETERS,
    ParameterTable,
    TranslatedGenerator,
    layer_name,
    require,
    unknown_parameter,
)
from styleclip_export.checkpoints.pickled_arrays import FileArray
from styleclip_export.checkpoints.unpickler import InertObject, UnsupportedFile
from styleclip_networks.resampling import RESAMPLE_FILTER

_KIND_OF_LAYER = {"Conv": "conv1", "Conv0_up": "conv0", "Conv1": "conv1", "ToRGB": "torgb"}

_LAYER_PARAMETERS: ParameterTable = {
    "weight": ("conv.weight", lambda array: array.transpose(3, 2, 0, 1)[None]),
    "mod_weight": ("conv.modulation.weight", lambda array: array.T),
    "mod_bias": ("conv.modulation.bias", lambda array: array + np.float32(1)),
}


def translate_generator(network: InertObject) -> TranslatedGenerator:
    """Translate a generator.

    Raises:
        UnsupportedFile: it is not a StyleGAN2 with the arithmetic of ours.
    """
    _check_options(network.get("static_kwargs"))
    official = dict(_variables(network, "", set()))
    if "synthesis/4x4/Conv/mod_weight" not in official:
        raise UnsupportedFile("its generator has no modulated convolutions: a StyleGAN of 2019")
    arrays: dict[str, np.ndarray] = {}
    for name, array in official.items():
        network_name, _, parameter = name.partition("/")
        if network_name == "mapping":
            dense = re.fullmatch(r"Dense(\d+)/(weight|bias)", parameter)
            if not dense:
                raise unknown_parameter("mapping", parameter)
            arrays[f"style.{int(dense[1]) + 1}.{dense[2]}"] = array.T
        elif network_name == "synthesis" and parameter != "lod":
            ours, value = _translate_synthesis(parameter, array)
            arrays[ours] = value
    return TranslatedGenerator("NVIDIA's TensorFlow pickle", arrays, official.get("dlatent_avg"))


def _check_options(options: dict[str, Any]) -> None:
    require("number of labels", options.get("label_size", 0), 0)
    require("number of color channels", options.get("num_channels", 3), 3)
    require("architecture", options.get("architecture", "skip"), "skip")
    require("activation", options.get("nonlinearity", "lrelu"), "lrelu")
    require("mapping's activation", options.get("mapping_nonlinearity", "lrelu"), "lrelu")
    require("mapping's learning rate", options.get("mapping_lrmul", 0.01), MAPPING_LR_MULTIPLIER)
    resample_filter = options.get("resample_kernel") or RESAMPLE_FILTER
    require("resampling filter", resample_filter, RESAMPLE_FILTER, list(RESAMPLE_FILTER))


def _variables(
    network: InertObject, prefix: str, visited: set[int]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) of the variables of a network and of its components."""
    state_dicts.mark_visited(network, visited)
    for name, value in network.get("variables"):
        # A TensorFlow scalar is pickled as a number.
        yield prefix + name, value.view() if isinstance(value, FileArray) else np.array(value)
    for name, component in network.get("components").items():
        if prefix.count("/") < MAX_NESTING:
            yield from _variables(component, f"{prefix}{name}/", visited)


def _translate_synthesis(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Return a variable of the synthesis network under our name, and in our layout."""
    if noise := re.fullmatch(r"noise(\d+)", name):
        return f"noises.noise_{noise[1]}", array
    if name == "4x4/Const/const":
        return "input.input", array
    match = re.fullmatch(r"(\d+)x\1/(Conv|Conv0_up|Conv1|ToRGB)/(\w+)", name)
    if not match:
        raise unknown_parameter("synthesis", name)
    resolution, kind, parameter = int(match[1]), _KIND_OF_LAYER[match[2]], match[3]
    table = _LAYER_PARAMETERS | (TO_RGB_PARAMETERS if kind == "torgb" else CONVOLUTION_PARAMETERS)
    if parameter not in table:
        raise unknown_parameter("synthesis", name)
    if kind == "conv0" and parameter == "weight":
        array = array[::-1, ::-1]
    ours, convert = table[parameter]
    return f"{layer_name(resolution, kind)}.{ours}", convert(array)
