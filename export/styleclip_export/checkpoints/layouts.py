"""Where a PyTorch or safetensors file has its generator, and under which names.

Networks lie in a file as a state_dict under a key (`g_ema`), below a prefix (`decoder.`,
`module.`), or as an object that was saved whole (PTI). Three projects name the layers:

- rosinality/stylegan2-pytorch, `model.py`: ours.
- NVlabs/stylegan2-ada-pytorch, `training/networks.py`: `nvidia_pytorch` translates.
- XPixelGroup/BasicSR, `basicsr/archs/stylegan2_arch.py`: translated here.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from styleclip_export.checkpoints import nvidia_pytorch, state_dicts
from styleclip_export.checkpoints.nvidia_common import TranslatedGenerator
from styleclip_export.checkpoints.pickled_arrays import FileArray
from styleclip_export.checkpoints.unpickler import InertObject, UnsupportedFile

_AVERAGED = ("g_ema", "params_ema", "G_ema", "ema", "state_dict")
_TRAINED = ("generator", "g", "G", "params")
# Names under a prefix, by preference where a file has several networks.
_PREFIXES = ("", "decoder.", *(f"{name}." for name in (*_AVERAGED, *_TRAINED)))

# A parameter that every generator has → what names it so.
_MARKS = {
    "conv1.conv.modulation.weight": "rosinality",
    "synthesis.b4.conv1.affine.weight": "NVIDIA",
    "style_conv1.modulated_conv.modulation.weight": "BasicSR",
}
_BASICSR_NAMES = (
    (r"style_mlp\.(\d+)\.(weight|bias)", r"style.\1.\2"),
    (r"constant_input\.weight", "input.input"),
    (r"style_conv(1|s\.\d+)\.modulated_conv\.(.+)", r"conv\1.conv.\2"),
    (r"style_conv(1|s\.\d+)\.weight", r"conv\1.noise.weight"),
    (r"style_conv(1|s\.\d+)\.activate\.bias", r"conv\1.activate.bias"),
    (r"to_rgb(1|s\.\d+)\.modulated_conv\.(.+)", r"to_rgb\1.conv.\2"),
    (r"to_rgb(1|s\.\d+)\.bias", r"to_rgb\1.bias"),
    (r"noises\.noise(\d+)", r"noises.noise_\1"),
)


def locate_generator(content: Any) -> TranslatedGenerator:
    """Find the generator in the content of a file, and translate its names.

    Raises:
        UnsupportedFile: there is none, or it is not a StyleGAN2.
    """
    if isinstance(content, InertObject):
        return _saved_object(content)
    if not isinstance(content, dict):
        raise UnsupportedFile("it contains no dictionary")
    for key in (*_AVERAGED, *_TRAINED):
        network = content.get(key)
        if isinstance(network, InertObject):
            return _saved_object(network)
        if isinstance(network, dict) and network:
            found = _from_state_dict(network, "" if key == "state_dict" else key)
            if found:
                return found
    found = _from_state_dict(content, "")
    if found is None:
        raise UnsupportedFile("it contains no StyleGAN2 generator")
    return found


def strip_prefix(
    arrays: dict[str, np.ndarray], mark: str, preferred: tuple[str, ...]
) -> tuple[str, dict[str, np.ndarray]] | None:
    """Select the arrays of one network, under names without its prefix.

    Args:
        mark: the name of a parameter of the network.
        preferred: prefixes in order of preference; `module.` (DataParallel) may be anywhere.

    Returns:
        the prefix and the arrays, or None if there is no such parameter.

    Raises:
        UnsupportedFile: there are several, all under unknown prefixes.
    """
    prefixes = [name.removesuffix(mark) for name in arrays if name.endswith(mark)]
    prefixes = [prefix for prefix in prefixes if not prefix or prefix.endswith(".")]
    if not prefixes:
        return None
    prefix = _choose_prefix(prefixes, preferred)
    return prefix, {n[len(prefix) :]: a for n, a in arrays.items() if n.startswith(prefix)}


def _choose_prefix(prefixes: list[str], preferred: tuple[str, ...]) -> str:
    plain = {prefix.replace("module.", ""): prefix for prefix in prefixes}
    known = [plain[name] for name in preferred if name in plain]
    if not known and len(prefixes) > 1:
        names = ", ".join(repr(prefix[:40]) for prefix in prefixes[:4])
        raise UnsupportedFile(f"it contains several such networks ({names})")
    return (known or prefixes)[0]


def _saved_object(network: InertObject) -> TranslatedGenerator:
    if not isinstance(network.get("_modules"), dict):
        raise UnsupportedFile(f"it contains an object ({network.class_name}) without layers")
    return nvidia_pytorch.translate_generator(network)


def _from_state_dict(state_dict: dict[Any, Any], key: str) -> TranslatedGenerator | None:
    every = state_dicts.select_arrays(state_dict)
    for mark, project in _MARKS.items():
        selected = strip_prefix(every, mark, _PREFIXES)
        if selected is None:
            continue
        prefix, arrays = selected
        arrays.pop("latent_avg", None)
        place = key or prefix.rstrip(".")
        layout = f"{project}'s names" + (f" under {place!r}" if place else "")
        notes = _not_averaged(place.split(".")[-1])
        if project == "NVIDIA":
            notes.append("the file has no settings: those of the published networks are assumed")
            return nvidia_pytorch.translate_arrays(arrays, layout, notes)
        if project == "BasicSR":
            arrays = {_our_name(name): array for name, array in arrays.items()}
        return TranslatedGenerator(layout, arrays, None, notes)
    return None


def _our_name(name: str) -> str:
    """Translate a name of BasicSR; an unknown one stays, and is refused by its name."""
    for pattern, ours in _BASICSR_NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(ours)
    return name


def _not_averaged(key: str) -> list[str]:
    if key not in _TRAINED:
        return []
    return [f"{key!r} has the weights as trained; the file has no averaged ones (g_ema)"]


def average_latent(content: Any) -> np.ndarray | None:
    """Return `latent_avg` of a checkpoint, (w_dim,) or (L, w_dim)."""
    array = content.get("latent_avg") if isinstance(content, dict) else None
    if not isinstance(array, FileArray):
        return None
    view = array.view()
    return view[0] if view.ndim > 1 and view.shape[0] == 1 else view
