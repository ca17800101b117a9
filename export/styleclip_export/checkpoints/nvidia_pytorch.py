"""Generators in NVIDIA's PyTorch pickles.

Layout: `torch_utils/persistence.py` and `training/networks.py` of NVlabs/stylegan2-ada-pytorch
(stylegan3's `networks_stylegan2.py` is the same). Of the gains of 1 / sqrt(fan-in), toRGB's is
applied to the style there and to the weight here, which is the same product; its 3x3 convolutions
have none, which demodulation cancels except in its epsilon of 1e-8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

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
    noise_name,
    require,
    unknown_parameter,
)
from styleclip_export.checkpoints.pickled_arrays import FileArray
from styleclip_export.checkpoints.unpickler import InertObject, UnsupportedFile

_SYNTHESIS_PARAMETER = r"synthesis\.b(\d+)\.(?:(const)|(conv0|conv1|torgb)\.([\w.]+))"

_LAYER_PARAMETERS: ParameterTable = {
    "weight": ("conv.weight", lambda array: array[None]),
    "affine.weight": ("conv.modulation.weight", lambda array: array),
    "affine.bias": ("conv.modulation.bias", lambda array: array),
}


def translate_generator(generator: InertObject) -> TranslatedGenerator:
    """Translate a generator.

    Raises:
        UnsupportedFile: it is not a StyleGAN2 with the arithmetic of ours.
    """
    modules = dict(_modules(generator, "", set()))
    if "synthesis.b4." not in modules:
        raise UnsupportedFile(
            f"its {generator.class_name} is not a StyleGAN2 (perhaps a StyleGAN3)"
        )
    notes = _check_modules(generator, modules)
    return translate_arrays(_tensors(modules), "NVIDIA's PyTorch pickle", notes)


def translate_arrays(
    official: dict[str, np.ndarray], layout: str, notes: list[str]
) -> TranslatedGenerator:
    """Translate the arrays of a generator's state_dict.

    Raises:
        UnsupportedFile: one is unknown.
    """
    arrays: dict[str, np.ndarray] = {}
    for name, array in official.items():
        if name.endswith("resample_filter"):
            state_dicts.check_resample_kernel(state_dicts.to_float32(array) * 4, name)
        elif name.startswith("mapping.") and name != "mapping.w_avg":
            dense = re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", name)
            if not dense:
                raise unknown_parameter("mapping", name)
            arrays[f"style.{int(dense[1]) + 1}.{dense[2]}"] = array
        elif name.startswith("synthesis."):
            ours, value = _translate_synthesis(name, array)
            arrays[ours] = value
    return TranslatedGenerator(layout, arrays, official.get("mapping.w_avg"), notes)


def _modules(
    module: InertObject, prefix: str, visited: set[int]
) -> Iterator[tuple[str, InertObject]]:
    """Yield (name with a dot at its end, module) of a module and of those within it."""
    state_dicts.mark_visited(module, visited)
    yield prefix, module
    for name, child in module.get("_modules", {}).items():
        if isinstance(child, InertObject) and prefix.count(".") < MAX_NESTING:
            yield from _modules(child, f"{prefix}{name}.", visited)


def _tensors(modules: dict[str, InertObject]) -> dict[str, np.ndarray]:
    return {
        prefix + name: array.view()
        for prefix, module in modules.items()
        for kind in ("_parameters", "_buffers")
        for name, array in module.get(kind, {}).items()
        if isinstance(array, FileArray)
    }


def _check_modules(generator: InertObject, modules: dict[str, InertObject]) -> list[str]:
    """Check the settings of all modules; return what the network does and ours does not."""
    require("number of labels", generator.get("c_dim", 0), 0)
    require("number of color channels", generator.get("img_channels", 3), 3)
    clamps = set()
    for prefix, module in modules.items():
        require("architecture", module.get("architecture", "skip"), "skip")
        activation = "linear" if prefix.endswith("affine.") else "lrelu"
        require("activation", module.get("activation", activation), activation)
        clamp = module.get("conv_clamp")
        if isinstance(clamp, int | float):
            clamps.add(float(clamp))
        if prefix.startswith("mapping.fc"):
            require("mapping's learning rate", module.get("bias_gain"), MAPPING_LR_MULTIPLIER)
    return [
        f"the official network clamps its features to ±{clamp:g}; ours does not"
        for clamp in sorted(clamps)
    ]


def _translate_synthesis(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    """Return a tensor of the synthesis network under our name, and in our layout."""
    match = re.fullmatch(_SYNTHESIS_PARAMETER, name)
    if not match:
        raise unknown_parameter("synthesis", name)
    resolution, constant, kind, parameter = int(match[1]), match[2], match[3], match[4]
    if constant:
        if resolution != 4:
            raise UnsupportedFile(f"its constant input is of {resolution} px, not 4")
        return "input.input", array[None]
    layer = layer_name(resolution, kind)
    if parameter == "noise_const" and kind != "torgb":
        return noise_name(layer), array[None, None]
    table = _LAYER_PARAMETERS | (TO_RGB_PARAMETERS if kind == "torgb" else CONVOLUTION_PARAMETERS)
    if parameter not in table:
        raise unknown_parameter("synthesis", name)
    ours, convert = table[parameter]
    return f"{layer}.{ours}", convert(array)
