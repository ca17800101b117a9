"""e4e's checkpoints: encoder, average latent and, with `generators`, the decoder.

Layout: omertov/encoder4editing, `models/psp.py` and `training/coach.py`: `state_dict` with the
prefixes `encoder.` and `decoder.`, `latent_avg`, and `opts`, the training's options.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from styleclip_export.checkpoints import generators, identify, state_dicts, torch_file
from styleclip_export.checkpoints.generators import GeneratorCheckpoint
from styleclip_export.checkpoints.unpickler import Record, Refused
from styleclip_networks.e4e import Encoder4Editing

EXPECTED = "an e4e checkpoint (e4e_*_encode.pt)"
_MOST_LATENTS, _MOST_UNITS = 18, 100


@dataclass(frozen=True)
class EncoderCheckpoint:
    """An encoder as a file has it. state: float32 (counters int64). w_avg: (L, w_dim) or (w_dim,),
    added to the encoder's answer. options: the training's, texts and numbers only."""

    num_latents: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    style_width: int
    w_dim: int
    state: dict[str, Tensor]
    w_avg: Tensor
    options: Mapping[str, str | int | float | None]
    decoder: GeneratorCheckpoint

    def network(self) -> Encoder4Editing:
        """The encoder, which shares its memory with `state`."""
        with torch.device("meta"):
            encoder = self._build()
        encoder.load_state_dict(self.state, assign=True)
        return encoder.eval()

    def _build(self) -> Encoder4Editing:
        return Encoder4Editing(
            self.num_latents, self.widths, self.depths, self.style_width, self.w_dim
        )


def read(path: Path) -> EncoderCheckpoint:
    """Reads an encoder and its decoder.

    Raises:
        CheckpointError: the file is another, damaged or hostile.
    """
    path = Path(path)
    with identify.reading(path, EXPECTED):
        identify.must_not_be_else(path, identify.TORCH)
        with torch_file.mapped(path) as data:
            return _read(torch_file.read(data), len(data))


def _read(value: Any, size: int) -> EncoderCheckpoint:
    if not isinstance(value, dict) or "state_dict" not in value:
        raise Refused("it holds no 'state_dict'")
    found = state_dicts.arrays(value["state_dict"], "encoder.")
    average = generators.average_of(value)
    if average is None:
        raise Refused("it holds no average latent ('latent_avg')")
    latents = _count(found, r"styles\.(\d+)\.", _MOST_LATENTS)
    widths, depths = _stages(found)
    w_dim, style_width = state_dicts.shape_of(found, "styles.0.linear.weight", 2)

    def build() -> Encoder4Editing:
        return Encoder4Editing(latents, widths, depths, style_width, w_dim)

    expected = state_dicts.without_memory(build)
    state_dicts.check(found, expected)
    state_dicts.check_total(found.values(), size)
    if average.shape not in ((latents, w_dim), (w_dim,)):
        raise Refused(f"its 'latent_avg' has the shape {average.shape}")
    decoder = generators.from_saved(value, size)
    if (2 * len(decoder.channels), decoder.w_dim) != (latents, w_dim):
        raise Refused(
            f"its encoder gives {latents} latents of {w_dim}, which its decoder of "
            f"{decoder.resolution} px does not take"
        )
    return EncoderCheckpoint(
        latents,
        tuple(widths),
        tuple(depths),
        style_width,
        w_dim,
        state_dicts.tensors(found, expected),
        state_dicts.tensor(average, "latent_avg"),
        _plain(value.get("opts")),
        decoder,
    )


def _count(found: Mapping[str, np.ndarray], pattern: str, most: int) -> int:
    """How many numbered parts there are."""
    numbers = {int(part[1]) for name in found if (part := re.match(pattern, name))}
    if not numbers or max(numbers) >= most:
        raise Refused("it holds no encoder as e4e's")
    return 1 + max(numbers)


def _stages(found: Mapping[str, np.ndarray]) -> tuple[list[int], list[int]]:
    """Widths and depths of the backbone's stages; the first unit of a stage changes the width."""
    widths: list[int] = []
    depths: list[int] = []
    for i in range(_count(found, r"body\.(\d+)\.", _MOST_UNITS)):
        width = state_dicts.shape_of(found, f"body.{i}.res_layer.1.weight", 4)[0]
        if not widths or width != widths[-1]:
            widths.append(width)
            depths.append(0)
        depths[-1] += 1
    if len(widths) != 4:
        raise Refused(f"its backbone has stages of {len(widths)} widths, not of 4")
    return widths, depths


def _plain(options: Any) -> dict[str, str | int | float | None]:
    if isinstance(options, Record):
        options = options.state
    if not isinstance(options, dict):
        return {}
    kinds = (str, int, float, bool, type(None))
    return {str(key): value for key, value in options.items() if isinstance(value, kinds)}
