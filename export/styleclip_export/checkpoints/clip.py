"""CLIP with a ViT image tower: OpenAI's TorchScript archive, or a plain state_dict.

Of an archive only `data.pkl` and the tensors are read: a tree of inert records whose attributes
bear the parameters' names. Its code is never opened. Layout of the names: openai/CLIP, `model.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from styleclip_export.checkpoints import identify, state_dicts, torch_file
from styleclip_export.checkpoints.pickled_arrays import Stored
from styleclip_export.checkpoints.unpickler import Record, Refused
from styleclip_networks.clip import CLIP, HEAD_WIDTH

EXPECTED = "CLIP with a ViT image tower (ViT-B-32.pt)"
_EXTRA = frozenset({"input_resolution", "context_length", "vocab_size"})
_MOST_NESTING = 12
_MOST_LAYERS = 64
_MOST_TOKENS = 1 << 20


@dataclass(frozen=True)
class ClipCheckpoint:
    """A CLIP as a file has it. sizes: the constructor's arguments. state: float32."""

    sizes: dict[str, int]
    state: dict[str, Tensor]

    def network(self) -> CLIP:
        """The network, which shares its memory with `state`."""
        with torch.device("meta"):
            clip = _build(self.sizes)
        clip.load_state_dict(self.state, assign=True)
        return clip.eval()


def read(path: Path) -> ClipCheckpoint:
    """Reads a CLIP.

    Raises:
        CheckpointError: the file is another, damaged or hostile.
    """
    path = Path(path)
    with identify.reading(path, EXPECTED):
        identify.must_not_be_else(path, identify.TORCH)
        with torch_file.mapped(path) as data:
            return _read(torch_file.read(data), len(data))


def _read(value: Any, size: int) -> ClipCheckpoint:
    if isinstance(value, Record):
        found = dict(_attributes(value))
    else:
        found = state_dicts.arrays(
            value.get("state_dict", value) if isinstance(value, dict) else value
        )
    sizes = _sizes(found)
    expected = state_dicts.without_memory(lambda: _build(sizes))
    state_dicts.check(found, expected, _is_extra)
    state_dicts.check_total((found[name] for name in expected), size)
    return ClipCheckpoint(sizes, state_dicts.tensors(found, expected))


def _is_extra(name: str) -> bool:
    """What an archive holds beside the weights; the causal mask is built into our network."""
    return name in _EXTRA or name.endswith("attn_mask")


def _attributes(
    module: Record, prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, np.ndarray]]:
    seen = state_dicts.once(module, seen)
    for name, value in module.state.items():
        if isinstance(value, Stored):
            yield f"{prefix}{name}", value.view()
        elif isinstance(value, Record) and prefix.count(".") < _MOST_NESTING:
            yield from _attributes(value, f"{prefix}{name}.", seen)


def _sizes(found: dict[str, np.ndarray]) -> dict[str, int]:
    if "visual.layer1.0.conv1.weight" in found:
        raise Refused("its image tower is a ResNet")
    vision_width, _, patch, _ = state_dicts.shape_of(found, "visual.conv1.weight", 4)
    cells, _ = state_dicts.shape_of(found, "visual.positional_embedding", 2)
    context, _ = state_dicts.shape_of(found, "positional_embedding", 2)
    width, embed = state_dicts.shape_of(found, "text_projection", 2)
    words, _ = state_dicts.shape_of(found, "token_embedding.weight", 2, widest=_MOST_TOKENS)
    if width % HEAD_WIDTH or vision_width % HEAD_WIDTH:
        raise Refused(f"its widths {width} and {vision_width} are no multiples of {HEAD_WIDTH}")
    return {
        "embed_dim": embed,
        "image_resolution": math.isqrt(cells - 1) * patch,
        "vision_patch_size": patch,
        "vision_width": vision_width,
        "vision_layers": _depth(found, r"visual\.transformer\.resblocks\.(\d+)\."),
        "vision_heads": vision_width // HEAD_WIDTH,
        "context_length": context,
        "vocab_size": words,
        "transformer_width": width,
        "transformer_layers": _depth(found, r"transformer\.resblocks\.(\d+)\."),
        "transformer_heads": width // HEAD_WIDTH,
    }


def _depth(found: dict[str, np.ndarray], pattern: str) -> int:
    numbers = {int(part[1]) for name in found if (part := re.match(pattern, name))}
    if not numbers or max(numbers) >= _MOST_LAYERS:
        raise Refused(f"it has no transformer of 1 to {_MOST_LAYERS} layers")
    return 1 + max(numbers)


def _build(sizes: dict[str, int]) -> CLIP:
    sizes = dict(sizes)
    return CLIP(sizes.pop("embed_dim"), **sizes)
