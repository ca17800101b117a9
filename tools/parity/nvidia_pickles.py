"""Pickles in the layouts of NVIDIA's two StyleGAN2 projects; none of their code is run.

Stand-ins have the official names of their classes while a pickle is written.
"""

from __future__ import annotations

import io
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

SOURCE = "raise SystemExit('the source text in the pickle was executed')"


@contextmanager
def under_official_names(*classes: Any) -> Iterator[None]:
    """Provide the modules in which pickle looks for the stand-ins."""
    before = dict(sys.modules)
    for value in classes:
        for i in range(1, value.__module__.count(".") + 2):
            name = ".".join(value.__module__.split(".")[:i])
            sys.modules.setdefault(name, ModuleType(name))
        setattr(sys.modules[value.__module__], value.__name__, value)
    try:
        yield
    finally:
        for name in sys.modules.keys() - before.keys():
            del sys.modules[name]


def _reconstruct_persistent_obj(meta: Any) -> Any:
    raise AssertionError("never called")


class EasyDict(dict[str, Any]):
    """dnnlib's dictionary."""


class Network:
    """dnnlib's network."""

    def __init__(self, **state: Any) -> None:
        self.__dict__.update(state)


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
EasyDict.__module__ = "dnnlib.util"
Network.__module__ = "dnnlib.tflib.network"


class Module:
    """A module that is pickled as by `torch_utils.persistence`."""

    def __init__(
        self, class_name: str, tensors: Any = (), modules: Any = (), **attributes: Any
    ) -> None:
        tensors = dict(tensors)
        buffers = ("noise_const", "resample_filter", "w_avg")
        self.meta = EasyDict(
            type="class",
            version=6,
            module_src=SOURCE,
            class_name=class_name,
            state={
                "training": False,
                "_parameters": {
                    k: torch.nn.Parameter(v) for k, v in tensors.items() if k not in buffers
                },
                "_buffers": {k: v for k, v in tensors.items() if k in buffers},
                "_non_persistent_buffers_set": set(),
                "_modules": dict(modules),
                **attributes,
            },
        )

    def __reduce__(self) -> Any:
        return _reconstruct_persistent_obj, (self.meta,)


def _linear(weight: Tensor, bias: Tensor, **attributes: Any) -> Module:
    gain = np.float64(weight.shape[1] ** -0.5)  # NumPy's numbers are in the official files, too
    return Module(
        "FullyConnectedLayer", {"weight": weight, "bias": bias}, weight_gain=gain, **attributes
    )


def ada_generator(
    state: Mapping[str, Tensor], w_avg: Tensor, channels_last: bool = False, **attributes: Any
) -> Module:
    """Build stylegan2-ada-pytorch's generator from a state (our names)."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = {"resample_filter": torch.outer(taps, taps) / 64}

    def layer(ours: str, noise: int | None = None) -> Module:
        weight = state[f"{ours}.conv.weight"][0].clone()
        if channels_last and weight.shape[-1] > 1:
            weight = weight.to(memory_format=torch.channels_last)
        affine = _linear(
            state[f"{ours}.conv.modulation.weight"],
            state[f"{ours}.conv.modulation.bias"],
            activation="linear",
            bias_gain=1,
        )
        if noise is None:
            tensors = {"weight": weight, "bias": state[f"{ours}.bias"].flatten()}
            return Module("ToRGBLayer", tensors, {"affine": affine}, conv_clamp=None)
        tensors = {"weight": weight, "bias": state[f"{ours}.activate.bias"], **kernel}
        if f"{ours}.noise.weight" in state:  # else trained with use_noise=False
            tensors["noise_strength"] = state[f"{ours}.noise.weight"].reshape(())
            tensors["noise_const"] = state[f"noises.noise_{noise}"][0, 0]
        return Module("SynthesisLayer", tensors, {"affine": affine}, activation="lrelu")

    first = {"const": state["input.input"][0], **kernel}
    parts = {"conv1": layer("conv1", 0), "torgb": layer("to_rgb1")}
    blocks = {"b4": Module("SynthesisBlock", first, parts, architecture="skip")}
    i = 0
    while f"to_rgbs.{i}.bias" in state:
        parts = {
            "conv0": layer(f"convs.{2 * i}", 2 * i + 1),
            "conv1": layer(f"convs.{2 * i + 1}", 2 * i + 2),
            "torgb": layer(f"to_rgbs.{i}"),
        }
        blocks[f"b{2 ** (i + 3)}"] = Module("SynthesisBlock", kernel, parts, architecture="skip")
        i += 1
    dense: dict[str, Module] = {}
    while f"style.{len(dense) + 1}.weight" in state:
        name = f"style.{len(dense) + 1}"
        dense[f"fc{len(dense)}"] = _linear(
            state[f"{name}.weight"], state[f"{name}.bias"], activation="lrelu", bias_gain=0.01
        )
    mapping = Module("MappingNetwork", {"w_avg": w_avg}, dense)
    synthesis = Module("SynthesisNetwork", {}, blocks)
    return Module(
        "Generator",
        {},
        {"synthesis": synthesis, "mapping": mapping},
        **{"c_dim": 0, "img_channels": 3, "_init_kwargs": EasyDict(z_dim=w_avg.numel())}
        | attributes,
    )


def official_names(state: Mapping[str, Tensor], w_avg: Tensor) -> dict[str, Tensor]:
    """Return the state_dict that stylegan2-ada-pytorch's generator of a state (our names) has."""

    def tensors(module: Module, prefix: str) -> Iterator[tuple[str, Tensor]]:
        inner = module.meta["state"]
        for kind in ("_parameters", "_buffers"):
            for name, tensor in inner[kind].items():
                yield prefix + name, tensor.detach()
        for name, child in inner["_modules"].items():
            yield from tensors(child, f"{prefix}{name}.")

    return dict(tensors(ada_generator(state, w_avg), ""))


def ada(state: Mapping[str, Tensor], w_avg: Tensor, protocol: int = 4, **attributes: Any) -> bytes:
    """Pickle a generator's state (our names) as stylegan2-ada-pytorch does."""
    content = {
        "G": None,
        "D": Module("Discriminator"),
        "G_ema": ada_generator(state, w_avg, **attributes),
        "augment_pipe": None,
        "training_set_kwargs": EasyDict(path="ffhq.zip"),
    }
    return dumps(content, protocol)


def dumps(content: Any, protocol: int = 4) -> bytes:
    """Pickle the content with the official names of the stand-ins."""
    with under_official_names(_reconstruct_persistent_obj, EasyDict, Network):
        stream = io.BytesIO()
        pickle.Pickler(stream, protocol).dump(content)
        return stream.getvalue()


def torch_save(content: Any, path: Path) -> None:
    """Save with torch.save, under the official names of the stand-ins, as PTI does."""
    with under_official_names(_reconstruct_persistent_obj, EasyDict):
        torch.save(content, path)


def tensorflow(state: Mapping[str, Tensor], w_avg: Tensor, **options: Any) -> bytes:
    """Pickle a generator's state (our names) as NVIDIA's StyleGAN2 in TensorFlow does.

    The weights of G, the network before averaging, are zeros.
    """
    numbers = {name: value.numpy() for name, value in state.items()}
    synthesis: list[tuple[str, Any]] = [("4x4/Const/const", numbers["input.input"])]

    def layer(theirs: str, ours: str, flip: bool = False) -> None:
        weight = numbers[f"{ours}.conv.weight"][0].transpose(2, 3, 1, 0)
        bias = numbers.get(f"{ours}.activate.bias", numbers.get(f"{ours}.bias"))
        synthesis.extend(
            [
                (f"{theirs}/weight", np.ascontiguousarray(weight[::-1, ::-1] if flip else weight)),
                (f"{theirs}/mod_weight", numbers[f"{ours}.conv.modulation.weight"].T.copy()),
                (f"{theirs}/mod_bias", numbers[f"{ours}.conv.modulation.bias"] - np.float32(1)),
                (f"{theirs}/bias", bias.flatten()),
            ]
        )
        if f"{ours}.noise.weight" in numbers:
            strength = numbers[f"{ours}.noise.weight"][0]
            synthesis.append((f"{theirs}/noise_strength", strength))

    layer("4x4/Conv", "conv1")
    layer("4x4/ToRGB", "to_rgb1")
    i = 0
    while f"to_rgbs.{i}.bias" in numbers:
        size = f"{2 ** (i + 3)}x{2 ** (i + 3)}"
        layer(f"{size}/Conv0_up", f"convs.{2 * i}", flip=True)
        layer(f"{size}/Conv1", f"convs.{2 * i + 1}")
        layer(f"{size}/ToRGB", f"to_rgbs.{i}")
        i += 1
    synthesis += [(f"noise{j}", numbers[f"noises.noise_{j}"]) for j in range(2 * i + 1)]
    mapping: list[tuple[str, Any]] = []
    while (name := f"style.{len(mapping) // 2 + 1}") + ".weight" in numbers:
        dense = f"Dense{len(mapping) // 2}"
        mapping.append((f"{dense}/weight", numbers[f"{name}.weight"].T.copy()))
        mapping.append((f"{dense}/bias", numbers[f"{name}.bias"]))

    def network(values: Any, components: Any = (), variables: Any = ()) -> Network:
        return Network(
            version=4,
            name="Gs",
            static_kwargs=options,
            components=dict(components),
            build_module_src=SOURCE,
            build_func_name="G_main",
            variables=[(name, value * values) for name, value in variables],
        )

    def generator(values: float) -> Network:
        parts = {"synthesis": synthesis, "mapping": mapping}
        return network(
            np.float32(values),
            {name: network(np.float32(values), (), variables) for name, variables in parts.items()},
            [("lod", np.float32(0)), ("dlatent_avg", w_avg.numpy())],
        )

    return dumps((generator(0), network(0), generator(1)))
