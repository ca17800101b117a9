"""CLIP with a ViT image tower: OpenAI's TorchScript archive, or a plain state_dict.

Of an archive only `data.pkl` and the tensors are read, a tree of inert objects whose attributes
have the parameters' names; its code is not. Parameter names: openai/CLIP, `model.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from styleclip_export.checkpoints import state_dicts, torch_file
from styleclip_export.checkpoints.checkpoint_file import open_checkpoint
from styleclip_export.checkpoints.pickled_arrays import FileArray
from styleclip_export.checkpoints.unpickler import InertObject, UnsupportedFile
from styleclip_networks.clip import CLIP, HEAD_WIDTH

EXPECTED = "CLIP with a ViT image tower (ViT-B-32.pt)"
_MAX_NESTING = 12
_MAX_LAYERS = 64
_MAX_VOCABULARY = 1 << 20


@dataclass(frozen=True)
class ClipCheckpoint:
    """A CLIP in a file.

    Attributes:
        sizes: arguments of `CLIP`.
        state: its state_dict, float32.
    """

    sizes: dict[str, int]
    state: dict[str, Tensor]

    def network(self) -> CLIP:
        """Build the network, which shares its memory with `state`."""
        return state_dicts.build_network(lambda: CLIP(**self.sizes), self.state)


def read(path: Path) -> ClipCheckpoint:
    """Read a CLIP.

    Raises:
        CheckpointError: the file has another format, or is damaged or hostile.
    """
    with open_checkpoint(Path(path), EXPECTED) as data:
        arrays = _arrays(torch_file.read(data))
        sizes = _sizes(arrays)
        shapes = state_dicts.expected_shapes(lambda: CLIP(**sizes))
        state_dicts.check_shapes(arrays, shapes, ignore=_is_built_in)
        state_dicts.check_total_size((arrays[name] for name in shapes), len(data))
        return ClipCheckpoint(sizes, state_dicts.to_tensors(arrays, shapes))


def _is_built_in(name: str) -> bool:
    """Return whether our network needs no such array: the sizes and the causal mask."""
    return name in ("input_resolution", "context_length", "vocab_size") or name.endswith(
        "attn_mask"
    )


def _arrays(content: Any) -> dict[str, np.ndarray]:
    if isinstance(content, InertObject):
        return dict(_attributes(content, "", set()))
    if isinstance(content, dict):
        content = content.get("state_dict", content)
    return state_dicts.select_arrays(content)


def _attributes(
    module: InertObject, prefix: str, visited: set[int]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield (name, array) of the tensors of a module and of those within it."""
    state_dicts.mark_visited(module, visited)
    for name, value in module.state.items():
        if isinstance(value, FileArray):
            yield f"{prefix}{name}", value.view()
        elif isinstance(value, InertObject) and prefix.count(".") < _MAX_NESTING:
            yield from _attributes(value, f"{prefix}{name}.", visited)


def _sizes(arrays: dict[str, np.ndarray]) -> dict[str, int]:
    """Return the arguments of `CLIP` from the shapes."""
    if "visual.layer1.0.conv1.weight" in arrays:
        raise UnsupportedFile("its image tower is a ResNet")
    vision_width, _, patch, _ = state_dicts.shape_of(arrays, "visual.conv1.weight", 4)
    positions, _ = state_dicts.shape_of(arrays, "visual.positional_embedding", 2)
    context, _ = state_dicts.shape_of(arrays, "positional_embedding", 2)
    width, embed = state_dicts.shape_of(arrays, "text_projection", 2)
    vocabulary, _ = state_dicts.shape_of(arrays, "token_embedding.weight", 2, _MAX_VOCABULARY)
    if width % HEAD_WIDTH or vision_width % HEAD_WIDTH:
        raise UnsupportedFile(
            f"its widths {width} and {vision_width} are not multiples of {HEAD_WIDTH}"
        )
    return {
        "embed_dim": embed,
        "image_resolution": math.isqrt(positions - 1) * patch,
        "vision_patch_size": patch,
        "vision_width": vision_width,
        "vision_layers": _layers(arrays, r"visual\.transformer\.resblocks\.(\d+)\."),
        "vision_heads": vision_width // HEAD_WIDTH,
        "context_length": context,
        "vocab_size": vocabulary,
        "transformer_width": width,
        "transformer_layers": _layers(arrays, r"transformer\.resblocks\.(\d+)\."),
        "transformer_heads": width // HEAD_WIDTH,
    }


def _layers(arrays: dict[str, np.ndarray], pattern: str) -> int:
    count = state_dicts.count_numbered(arrays, pattern, _MAX_LAYERS)
    if not count:
        raise UnsupportedFile(f"it has no transformer of 1 to {_MAX_LAYERS} layers")
    return count
