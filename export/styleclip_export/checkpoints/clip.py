"""CLIP with a ViT image tower: OpenAI's TorchScript archive, or a plain state_dict.

Of an archive only `data.pkl` and the tensors are read, a tree of inert objects whose attributes
have the parameters' names; its code is not. Parameter names: openai/CLIP, `model.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from styleclip_export.checkpoints import state_dicts, torch_file
from styleclip_export.checkpoints.checkpoint_file import open_checkpoint
from styleclip_export.checkpoints.pickled_arrays import FileArray
from styleclip_export.checkpoints.unpickler import InertObject, UnsupportedFile
from styleclip_networks.clip import CLIP, HEAD_WIDTH
from styleclip_networks.sizes import clip_sizes

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
        return state_dicts.build_network(partial(CLIP, **self.sizes), self.state)


def read(path: Path) -> ClipCheckpoint:
    """Read a CLIP.

    Raises:
        CheckpointError: the file has another format, or is damaged or hostile.
    """
    with open_checkpoint(Path(path), EXPECTED) as data:
        arrays = _arrays(torch_file.read(data))
        sizes = _sizes(arrays)
        shapes = state_dicts.expected_shapes(partial(CLIP, **sizes))
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
    """Return the arguments of `CLIP`, from shapes within its bounds."""
    if "visual.layer1.0.conv1.weight" in arrays:
        raise UnsupportedFile("its image tower is a ResNet")
    state_dicts.shape_of(arrays, "visual.conv1.weight", 4)
    state_dicts.shape_of(arrays, "visual.positional_embedding", 2)
    state_dicts.shape_of(arrays, "positional_embedding", 2)
    state_dicts.shape_of(arrays, "text_projection", 2)
    state_dicts.shape_of(arrays, "token_embedding.weight", 2, _MAX_VOCABULARY)
    sizes = clip_sizes(state_dicts.shapes_of(arrays))
    widths = sizes["transformer_width"], sizes["vision_width"]
    if any(width % HEAD_WIDTH for width in widths):
        raise UnsupportedFile(
            f"its widths {widths[0]} and {widths[1]} are not multiples of {HEAD_WIDTH}"
        )
    if not all(0 < sizes[f"{tower}_layers"] <= _MAX_LAYERS for tower in ("transformer", "vision")):
        raise UnsupportedFile(f"it has no transformer of 1 to {_MAX_LAYERS} layers")
    return sizes
