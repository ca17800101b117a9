"""NVIDIA's StyleGAN2 pickles, TensorFlow's and PyTorch's, under rosinality's parameter names.

Layouts: `dnnlib/tflib/network.py` and `training/networks_stylegan2.py` of NVlabs/stylegan2;
`torch_utils/persistence.py` and `training/networks.py` of NVlabs/stylegan2-ada-pytorch (the same
as stylegan3's `networks_stylegan2.py`). The pickles bring the source text of their networks, which
is skipped as any other text.

What differs from rosinality's network, and why the numbers can be taken over:
- Up-sampling convolutions: TensorFlow's kernels are flipped; PyTorch's are as ours.
- Affine layers: TensorFlow stores their bias less 1.
- 1 / sqrt(fan-in): PyTorch applies toRGB's to the style and ours to the weight, which is the same
  product. Its 3x3 convolutions have none, which demodulation makes immaterial but for the epsilon
  of 1e-8 in its root.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from styleclip_export.checkpoints import state_dicts, torch_file
from styleclip_export.checkpoints.pickled_arrays import (
    NUMPY,
    PLAIN,
    TENSORS,
    Storage,
    Stored,
    dictionary,
)
from styleclip_export.checkpoints.unpickler import Budget, Handlers, Machine, Record, Refused, shown
from styleclip_networks.stylegan2 import RESAMPLE_FILTER

_NETWORK = "dnnlib.tflib.network.Network"
_PERSISTENT = "torch_utils.persistence._reconstruct_persistent_obj"
_MOST_NESTING = 8
LR_MULTIPLIER = 0.01  # of the mapping network; it is part of our network's arithmetic


@dataclass
class Found:
    """A generator in a pickle, under our names. `arrays` are views of the file where they can be;
    blur kernels are left out."""

    layout: str
    arrays: dict[str, np.ndarray]
    w_avg: np.ndarray | None
    notes: list[str] = field(default_factory=list)


def _network(*_: Any) -> Record:
    return Record(_NETWORK)


def _persistent(meta: Any) -> Record:
    if not isinstance(meta, dict) or not isinstance(meta.get("state"), dict):
        raise Refused("it holds a persistent object of an unknown form")
    record = Record(shown(meta.get("class_name")))
    record.state = meta["state"]
    return record


def _storage(data: Any, budget: Budget) -> Storage:
    if not isinstance(data, memoryview):
        raise Refused("it holds a tensor without numbers")
    storage = torch_file.read_stream(data, budget)
    if not isinstance(storage, Storage):
        raise Refused("it holds a tensor without numbers")
    return storage


def _handlers(budget: Budget) -> Handlers:
    return {
        **NUMPY,
        **PLAIN,
        **TENSORS,
        "dnnlib.util.EasyDict": dictionary,
        _NETWORK: _network,
        _PERSISTENT: _persistent,
        "torch.storage._load_from_bytes": lambda stream: _storage(stream, budget),
    }


def read(data: memoryview) -> Found:
    """The generator with averaged weights (`Gs`, `G_ema`) of one of NVIDIA's pickles.

    Raises:
        Refused: there is none that is a StyleGAN2 as ours is.
    """
    budget = Budget()
    value = Machine(data, _handlers(budget), budget=budget).run()
    if isinstance(value, tuple) and len(value) == 3:
        value = value[2]
    if isinstance(value, Record) and value.name == _NETWORK:
        return _tensorflow(value)
    if isinstance(value, dict):
        value = value.get("G_ema")
    if isinstance(value, Record) and isinstance(value.get("_modules"), dict):
        return _pytorch(value)
    raise Refused("it holds no generator with averaged weights (Gs or G_ema)")


def _must_be(what: str, value: Any, *allowed: Any) -> None:
    if value not in allowed:
        raise Refused(f"its {what} is {shown(value)}, and only {allowed[0]!r} is supported")


# --- TensorFlow ----------------------------------------------------------------------------------


def _variables(
    network: Record, prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    seen = state_dicts.once(network, seen)
    for name, value in network.get("variables"):
        # A TensorFlow scalar is pickled as a number.
        yield prefix + name, value.view() if isinstance(value, Stored) else np.array(value)
    for name, component in network.get("components").items():
        if prefix.count("/") < _MOST_NESTING:
            yield from _variables(component, f"{prefix}{name}/", seen)


def _tensorflow(network: Record) -> Found:
    options = network.get("static_kwargs")
    _must_be("number of labels", options.get("label_size", 0), 0)
    _must_be("number of colours", options.get("num_channels", 3), 3)
    _must_be("architecture", options.get("architecture", "skip"), "skip")
    _must_be("activation", options.get("nonlinearity", "lrelu"), "lrelu")
    _must_be("mapping's activation", options.get("mapping_nonlinearity", "lrelu"), "lrelu")
    _must_be("mapping's learning rate", options.get("mapping_lrmul", 0.01), LR_MULTIPLIER)
    _must_be(
        "re-sampling filter",
        options.get("resample_kernel") or RESAMPLE_FILTER,
        RESAMPLE_FILTER,
        list(RESAMPLE_FILTER),
    )
    official = dict(_variables(network))
    if "synthesis/4x4/Conv/mod_weight" not in official:
        raise Refused("its generator has no modulated convolutions: it is a StyleGAN of 2019")

    ours: dict[str, np.ndarray] = {}
    for name, array in official.items():
        part, _, rest = name.partition("/")
        if part == "mapping":
            dense = re.fullmatch(r"Dense(\d+)/(weight|bias)", rest)
            if not dense:
                raise Refused(f"its mapping network has an unknown {rest[:60]!r}")
            ours[f"style.{int(dense[1]) + 1}.{dense[2]}"] = array.T
        elif part == "synthesis" and rest != "lod":
            key, value = _synthesis_of_tensorflow(rest, array)
            ours[key] = value
    return Found("NVIDIA's TensorFlow pickle", ours, official.get("dlatent_avg"))


def _synthesis_of_tensorflow(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    if noise := re.fullmatch(r"noise(\d+)", name):
        return f"noises.noise_{noise[1]}", array
    if name == "4x4/Const/const":
        return "input.input", array
    parts = re.fullmatch(r"(\d+)x\1/(Conv|Conv0_up|Conv1|ToRGB)/(\w+)", name)
    if not parts:
        raise Refused(f"its synthesis network has an unknown {name[:60]!r}")
    layer = _layer(int(parts[1]), {"Conv0_up": "conv0", "ToRGB": "torgb"}.get(parts[2], "conv1"))
    rgb = parts[2] == "ToRGB"
    match parts[3]:
        case "weight":
            if array.ndim == 4 and parts[2] == "Conv0_up":
                array = array[::-1, ::-1]
            return f"{layer}.conv.weight", array.transpose(3, 2, 0, 1)[None]
        case "mod_weight":
            return f"{layer}.conv.modulation.weight", array.T
        case "mod_bias":
            return f"{layer}.conv.modulation.bias", array + np.float32(1)
        case "noise_strength":
            return f"{layer}.noise.weight", array.reshape(1)
        case "bias" if rgb:
            return f"{layer}.bias", array.reshape(1, -1, 1, 1)
        case "bias":
            return f"{layer}.activate.bias", array
    raise Refused(f"its synthesis network has an unknown {name[:60]!r}")


def _layer(resolution: int, kind: str) -> str:
    """Our module for conv0, conv1 or torgb of a resolution."""
    block = int(math.log2(resolution)) - 3
    if resolution != 2 ** (block + 3) or not -1 <= block <= 7 or (kind == "conv0" and block < 0):
        raise Refused(f"it has a {kind} of {resolution} px")
    if block < 0:
        return "to_rgb1" if kind == "torgb" else "conv1"
    if kind == "torgb":
        return f"to_rgbs.{block}"
    return f"convs.{2 * block + int(kind == 'conv1')}"


# --- PyTorch -------------------------------------------------------------------------------------


def _modules(
    module: Record, prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, Record]]:
    seen = state_dicts.once(module, seen)
    yield prefix, module
    for name, child in module.get("_modules", {}).items():
        if isinstance(child, Record) and prefix.count(".") < _MOST_NESTING:
            yield from _modules(child, f"{prefix}{name}.", seen)


def _pytorch(generator: Record) -> Found:
    modules = dict(_modules(generator))
    if "synthesis.b4." not in modules:
        raise Refused(f"its {generator.name} is no StyleGAN2 (a StyleGAN3, perhaps)")
    official: dict[str, np.ndarray] = {}
    for prefix, module in modules.items():
        for kind in ("_parameters", "_buffers"):
            for name, array in module.get(kind, {}).items():
                if isinstance(array, Stored):
                    official[prefix + name] = array.view()
    notes = _check_pytorch(generator, modules)
    ours: dict[str, np.ndarray] = {}
    for name, array in official.items():
        if name.endswith("resample_filter"):
            state_dicts.check_filter(array * 4, name)
        elif name.startswith("mapping.") and name != "mapping.w_avg":
            dense = re.fullmatch(r"mapping\.fc(\d+)\.(weight|bias)", name)
            if not dense:
                raise Refused(f"its mapping network has an unknown {name[:60]!r}")
            ours[f"style.{int(dense[1]) + 1}.{dense[2]}"] = array
        elif name.startswith("synthesis."):
            ours.update([_synthesis_of_pytorch(name, array)])
    return Found("NVIDIA's PyTorch pickle", ours, official.get("mapping.w_avg"), notes)


def _check_pytorch(generator: Record, modules: dict[str, Record]) -> list[str]:
    _must_be("number of labels", generator.get("c_dim", 0), 0)
    _must_be("number of colours", generator.get("img_channels", 3), 3)
    clamps = set()
    for prefix, module in modules.items():
        _must_be("architecture", module.get("architecture", "skip"), "skip")
        kind = "linear" if prefix.endswith("affine.") else "lrelu"
        _must_be("activation", module.get("activation", kind), kind)
        if isinstance(module.get("conv_clamp"), int | float):
            clamps.add(float(module.get("conv_clamp")))
        if prefix.startswith("mapping.fc"):
            _must_be("mapping's learning rate", module.get("bias_gain"), LR_MULTIPLIER)
    return [
        f"the official network clamps its features to ±{clamp:g}; ours does not"
        for clamp in sorted(clamps)
    ]


_PARAMETER = r"synthesis\.b(\d+)\.(?:(const)|(conv0|conv1|torgb)\.([\w.]+))"


def _synthesis_of_pytorch(name: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    parts = re.fullmatch(_PARAMETER, name)
    if not parts:
        raise Refused(f"its synthesis network has an unknown {name[:60]!r}")
    resolution = int(parts[1])
    if parts[2]:
        if resolution != 4:
            raise Refused(f"its constant input is of {resolution} px, not 4")
        return "input.input", array[None]
    kind, rest = parts[3], parts[4]
    layer = _layer(resolution, kind)
    match rest:
        case "weight":
            return f"{layer}.conv.weight", array[None]
        case "affine.weight" | "affine.bias":
            return f"{layer}.conv.modulation.{rest[7:]}", array
        case "bias" if kind == "torgb":
            return f"{layer}.bias", array.reshape(1, -1, 1, 1)
        case "bias":
            return f"{layer}.activate.bias", array
        case "noise_strength" if kind != "torgb":
            return f"{layer}.noise.weight", array.reshape(1)
        case "noise_const" if kind != "torgb":
            index = 0 if resolution == 4 else int(layer.removeprefix("convs.")) + 1
            return f"noises.noise_{index}", array[None, None]
    raise Refused(f"its synthesis network has an unknown {name[:60]!r}")


def silence(ours: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """For a network that was trained without noise: noise of strength 0."""
    added: dict[str, np.ndarray] = {}
    if any(name.startswith("noises.") for name in ours):
        return added
    for name in [n for n in ours if n.endswith(".activate.bias")]:
        layer = name.removesuffix(".activate.bias")
        index = 0 if layer == "conv1" else int(layer.removeprefix("convs.")) + 1
        resolution = 2 ** ((index + 5) // 2)
        added[f"{layer}.noise.weight"] = np.zeros(1, np.float32)
        added[f"noises.noise_{index}"] = np.zeros((1, 1, resolution, resolution), np.float32)
    return added
