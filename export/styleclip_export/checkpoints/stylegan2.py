"""StyleGAN2 generators as they are published: rosinality's, e4e's, NVIDIA's TensorFlow and PyTorch.

All become a state_dict under rosinality's names, which are our network's. Sources: rosinality
`convert_weight.py` and NVIDIA stylegan2-ada-pytorch `legacy.py` tell how the layouts correspond.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from styleclip_export.checkpoints import archive, unpickle
from styleclip_export.checkpoints.unpickle import Record
from styleclip_export.errors import CheckpointError
from styleclip_export.models.stylegan2 import Generator

State = dict[str, Tensor]
_EXPECTED = "a StyleGAN2 generator"
_LARGEST_WIDTH = 4096  # channels; beyond it the file is not what it says


def read_generator(path: Path) -> tuple[Generator, Tensor | None]:
    """The (averaged) generator of any known file and its average latent (w_dim,) or (L, w_dim).

    Raises:
        CheckpointError: the file is none of the known kinds, is damaged or does not fit together.
    """
    with path.open("rb") as file:
        head = file.read(4)
    if head.startswith(b"PK"):
        checkpoint = archive.read_torch(path, _EXPECTED)
        return from_checkpoint(checkpoint, path)
    found = unpickle.read_pickle(path, _EXPECTED)
    state, average = _from_nvidia(found, path)
    return build(state, path), average


def from_checkpoint(checkpoint: Any, path: Path) -> tuple[Generator, Tensor | None]:
    """The generator of a loaded PyTorch file: rosinality's `g_ema`, or e4e's `decoder.`."""
    if not isinstance(checkpoint, Mapping):
        raise CheckpointError(
            f"{path} holds a {type(checkpoint).__name__}; {_EXPECTED} was expected"
        )
    average = checkpoint.get("latent_avg")
    if "g_ema" in checkpoint:
        state = dict(checkpoint["g_ema"])
    elif isinstance(checkpoint.get("state_dict"), Mapping):
        state = part(checkpoint["state_dict"], "decoder.")
    else:
        state = dict(checkpoint)
    if "input.input" not in state:
        keys = ", ".join(map(str, list(checkpoint)[:5]))
        raise CheckpointError(
            f"{path} holds no StyleGAN2 generator (its keys: {keys} …); `g_ema` of rosinality's "
            "files or `decoder.` of e4e's were expected"
        )
    return build(state, path), average


def part(state: Mapping[str, Tensor], prefix: str) -> State:
    """The entries whose name starts with `prefix`, without it."""
    return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}


def build(state: State, path: Path) -> Generator:
    """A generator of the size that `state` has, with its weights.

    Raises:
        CheckpointError: names or shapes do not fit.
    """
    try:
        blocks = 1 + max(int(m[1]) for k in state if (m := re.match(r"to_rgbs\.(\d+)\.", k)))
        layers = len([k for k in state if re.fullmatch(r"style\.\d+\.weight", k)])
        w_dim = state["conv1.conv.modulation.weight"].shape[1]
        channels = {4: state["input.input"].shape[1]}
        for i in range(blocks):
            channels[2 ** (i + 3)] = state[f"convs.{2 * i}.conv.weight"].shape[1]
        if not 3 <= blocks <= 8 or max(*channels.values(), w_dim) > _LARGEST_WIDTH:
            raise ValueError(f"{blocks} doublings, widths {channels}")
        generator = Generator(2 ** (blocks + 2), channels, w_dim, layers)
        own = generator.state_dict()
        # The blur kernels are constants, which some files leave out.
        kernels = {k: v for k, v in own.items() if k.endswith(".kernel")}
        generator.load_state_dict(kernels | {k: v for k, v in state.items() if k in own})
        missing = [k for k in own if k not in state and k not in kernels]
        unknown = [k for k in state if k not in own]
        if missing or unknown:
            raise KeyError(f"missing {missing[:3]}, unknown {unknown[:3]}")
    except (KeyError, ValueError, IndexError, RuntimeError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path}: the generator's weights do not fit together ({reason})"
        ) from error
    return generator


def _from_nvidia(found: Any, path: Path) -> tuple[State, Tensor]:
    """NVIDIA's pickles: a tuple (G, D, Gs) of TensorFlow's time, or a dict with `G_ema`."""
    try:
        if isinstance(found, Mapping):
            return _from_torch(found["G_ema"])
        *_, averaged = found
        return _from_tensorflow(averaged)
    except (KeyError, ValueError, TypeError, AttributeError, IndexError) as error:
        raise CheckpointError(
            f"{path} holds no StyleGAN2 generator of NVIDIA's ({type(error).__name__}: {error}): "
            "the file of stylegan2, or of a StyleGAN2 network of stylegan2-ada-pytorch or "
            "stylegan3 was expected"
        ) from error


def _from_tensorflow(network: Record) -> tuple[State, Tensor]:
    """Variables of `Gs` → rosinality's names. Kernels are (kh, kw, in, out), those of the
    up-sampling layers flipped; the modulation's bias lacks its 1."""
    parts = network.state["components"]
    mapping, synthesis = (dict(parts[k].state["variables"]) for k in ("mapping", "synthesis"))
    own = dict(network.state["variables"])

    state: dict[str, np.ndarray] = {"input.input": synthesis["4x4/Const/const"]}

    def convolution(theirs: str, ours: str, flip: bool = False) -> None:
        weight = synthesis[f"{theirs}/weight"]
        weight = weight[::-1, ::-1] if flip else weight
        state[f"{ours}.conv.weight"] = weight.transpose(3, 2, 0, 1)[None]
        state[f"{ours}.conv.modulation.weight"] = synthesis[f"{theirs}/mod_weight"].T
        state[f"{ours}.conv.modulation.bias"] = synthesis[f"{theirs}/mod_bias"] + 1
        if "rgb" in ours:
            state[f"{ours}.bias"] = synthesis[f"{theirs}/bias"].reshape(1, 3, 1, 1)
        else:
            state[f"{ours}.noise.weight"] = synthesis[f"{theirs}/noise_strength"].reshape(1)
            state[f"{ours}.activate.bias"] = synthesis[f"{theirs}/bias"]

    convolution("4x4/Conv", "conv1")
    convolution("4x4/ToRGB", "to_rgb1")
    block = 0
    while f"{2 ** (block + 3)}x{2 ** (block + 3)}/Conv1/weight" in synthesis:
        size = 2 ** (block + 3)
        convolution(f"{size}x{size}/Conv0_up", f"convs.{2 * block}", flip=True)
        convolution(f"{size}x{size}/Conv1", f"convs.{2 * block + 1}")
        convolution(f"{size}x{size}/ToRGB", f"to_rgbs.{block}")
        block += 1
    for i in range(2 * block + 1):
        state[f"noises.noise_{i}"] = synthesis[f"noise{i}"]
    layer = 0
    while f"Dense{layer}/weight" in mapping:
        state[f"style.{layer + 1}.weight"] = mapping[f"Dense{layer}/weight"].T
        state[f"style.{layer + 1}.bias"] = mapping[f"Dense{layer}/bias"]
        layer += 1
    return {k: _tensor(v) for k, v in state.items()}, _tensor(own["dlatent_avg"])


def _from_torch(network: Record) -> tuple[State, Tensor]:
    """Parameters of stylegan2-ada-pytorch's `G_ema` → rosinality's names.

    Demodulation cancels the weight gain that NVIDIA leaves out of its convolutions, and toRGB's is
    folded into its style there, so the numbers are the same ones.
    """
    theirs: State = {}
    _collect(network, "", theirs)
    state: State = {"input.input": theirs["synthesis.b4.const"][None]}

    def convolution(name: str, ours: str) -> None:
        state[f"{ours}.conv.weight"] = theirs[f"{name}.weight"][None]
        state[f"{ours}.conv.modulation.weight"] = theirs[f"{name}.affine.weight"]
        state[f"{ours}.conv.modulation.bias"] = theirs[f"{name}.affine.bias"]
        if "rgb" in ours:
            state[f"{ours}.bias"] = theirs[f"{name}.bias"].reshape(1, 3, 1, 1)
        else:
            state[f"{ours}.noise.weight"] = theirs[f"{name}.noise_strength"].reshape(1)
            state[f"{ours}.activate.bias"] = theirs[f"{name}.bias"]

    def noise(name: str, i: int) -> None:
        state[f"noises.noise_{i}"] = theirs[f"{name}.noise_const"][None, None]

    convolution("synthesis.b4.conv1", "conv1")
    convolution("synthesis.b4.torgb", "to_rgb1")
    noise("synthesis.b4.conv1", 0)
    block = 0
    while f"synthesis.b{2 ** (block + 3)}.conv1.weight" in theirs:
        size = 2 ** (block + 3)
        for j in (0, 1):
            convolution(f"synthesis.b{size}.conv{j}", f"convs.{2 * block + j}")
            noise(f"synthesis.b{size}.conv{j}", 2 * block + j + 1)
        convolution(f"synthesis.b{size}.torgb", f"to_rgbs.{block}")
        block += 1
    layer = 0
    while f"mapping.fc{layer}.weight" in theirs:
        state[f"style.{layer + 1}.weight"] = theirs[f"mapping.fc{layer}.weight"]
        state[f"style.{layer + 1}.bias"] = theirs[f"mapping.fc{layer}.bias"]
        layer += 1
    if "mapping.embed.weight" in theirs:
        raise ValueError("it is conditional on a class, which this project does not support")
    return {k: v.float().clone() for k, v in state.items()}, theirs["mapping.w_avg"].float()


def _collect(record: Record, prefix: str, found: State) -> None:
    """Tensors of a module's `_parameters` and `_buffers`, and of its `_modules`."""
    for kind in ("_parameters", "_buffers"):
        for name, tensor in record.state.get(kind, {}).items():
            if isinstance(tensor, Tensor):
                found[prefix + name] = tensor
    for name, module in record.state.get("_modules", {}).items():
        if isinstance(module, Record):
            _collect(module, f"{prefix}{name}.", found)


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, np.float32))  # a writable copy
