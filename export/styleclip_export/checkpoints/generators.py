"""StyleGAN2 generators from any of their published files, of any resolution and width.

rosinality's `.pt` (`g_ema`, `latent_avg`), the `decoder.` part of an e4e checkpoint, a plain
state_dict, NVIDIA's TensorFlow pickles and NVIDIA's PyTorch pickles. Names and shapes are compared
with those of a network without memory (PyTorch's meta device) before any number is copied.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from styleclip_export.checkpoints import identify, nvidia_pickles, state_dicts, torch_file
from styleclip_export.checkpoints.pickled_arrays import Stored
from styleclip_export.checkpoints.unpickler import Refused
from styleclip_networks.stylegan2 import RESAMPLE_FILTER, Generator

EXPECTED = "a StyleGAN2 generator (NVIDIA's .pkl, rosinality's .pt or an e4e checkpoint)"
_KERNELS = ("blur.kernel", "upsample.kernel")
_DRAWN = 10_000  # latents whose mean stands for an average that the file lacks


@dataclass(frozen=True)
class GeneratorCheckpoint:
    """A generator as a file has it. layout: the kind of file. state: float32, our names.

    w_avg (w_dim,): the average latent, or None where the file has none. notes: what the official
    network does and ours does not.
    """

    layout: str
    resolution: int
    channels: dict[int, int]
    w_dim: int
    mapping_layers: int
    state: dict[str, Tensor]
    w_avg: Tensor | None
    notes: tuple[str, ...] = ()

    def network(self) -> Generator:
        """The generator, which shares its memory with `state`."""
        with torch.device("meta"):
            generator = Generator(self.resolution, self.channels, self.w_dim, self.mapping_layers)
        generator.load_state_dict(self.state, assign=True)
        return generator.eval()


def read(path: Path) -> GeneratorCheckpoint:
    """Reads a generator.

    Raises:
        CheckpointError: the file is another, damaged or hostile.
    """
    path = Path(path)
    with identify.reading(path, EXPECTED):
        identify.must_not_be_else(path, identify.TORCH)
        with torch_file.mapped(path) as data:
            return _read(data)


def read_generator(path: Path) -> tuple[Generator, Tensor]:
    """(the generator, w_avg (w_dim,)); see `read`. An average that the file lacks is drawn: the
    mean of 10,000 latents, the same at each call."""
    checkpoint = read(path)
    generator = checkpoint.network()
    if checkpoint.w_avg is not None:
        return generator, checkpoint.w_avg
    with torch.inference_mode():
        z = torch.randn(_DRAWN, checkpoint.w_dim, generator=torch.Generator().manual_seed(0))
        return generator, generator.mapping(z).mean(0).clone()


def _read(data: memoryview) -> GeneratorCheckpoint:
    if data[:4] != b"PK\x03\x04" and not torch_file.is_stream(data):
        found = nvidia_pickles.read(data)
        return from_arrays(
            found.arrays, len(data), found.layout, w_avg=found.w_avg, notes=found.notes
        )
    return from_saved(torch_file.read(data), len(data))


def from_saved(value: Any, size: int) -> GeneratorCheckpoint:
    """The generator in what `torch_file.read` gave for a file of `size` bytes.

    Raises:
        Refused: there is none.
    """
    if not isinstance(value, dict):
        raise Refused("it holds no dictionary")
    average = average_of(value)
    if "g_ema" in value:
        found_arrays, layout = state_dicts.arrays(value["g_ema"]), "rosinality's checkpoint"
    elif "state_dict" in value:
        found_arrays, layout = state_dicts.arrays(value["state_dict"], "decoder."), "e4e's decoder"
    else:
        found_arrays, layout = state_dicts.arrays(value), "a plain state_dict"
    if average is not None and average.ndim == 2:  # one row for each latent, as e4e keeps it
        average = average[0] if (average == average[:1]).all() else None
    return from_arrays(found_arrays, size, layout, w_avg=average)


def average_of(value: dict[Any, Any]) -> np.ndarray | None:
    """`latent_avg` of a checkpoint, (w_dim,) or (L, w_dim)."""
    stored = value.get("latent_avg")
    if not isinstance(stored, Stored):
        return None
    view = stored.view()
    return view[0] if view.ndim > 1 and view.shape[0] == 1 else view


def from_arrays(
    found: dict[str, np.ndarray],
    size: int,
    layout: str,
    *,
    w_avg: np.ndarray | None,
    notes: Sequence[str] = (),
) -> GeneratorCheckpoint:
    """A checkpoint from arrays under our names. size: bytes of the file.

    Raises:
        Refused: names or shapes are not those of one StyleGAN2.
    """
    sizes = _sizes(found)
    expected = _expected(sizes)
    state_dicts.check_total(found.values(), size)
    kernel = np.outer(RESAMPLE_FILTER, RESAMPLE_FILTER).astype(np.float32) / 64 * 4
    built_in = {name: kernel for name in expected if name.endswith(_KERNELS)}
    found = built_in | nvidia_pickles.silence(found) | found
    state_dicts.check(found, expected)
    for name in built_in:
        state_dicts.check_filter(found[name], name)
    resolution, channels, w_dim, mapping_layers = sizes
    if w_avg is not None and w_avg.shape != (w_dim,):
        raise Refused(f"its average latent has the shape {w_avg.shape}, not ({w_dim},)")
    return GeneratorCheckpoint(
        layout,
        resolution,
        channels,
        w_dim,
        mapping_layers,
        state_dicts.tensors(found, expected),
        None if w_avg is None else state_dicts.tensor(w_avg, "the average latent"),
        tuple(notes),
    )


def _sizes(found: dict[str, np.ndarray]) -> tuple[int, dict[int, int], int, int]:
    """(resolution, channels by resolution, w_dim, mapping layers) from the shapes."""
    _, first, _, _, _ = state_dicts.shape_of(found, "conv1.conv.weight", 5)
    _, w_dim = state_dicts.shape_of(found, "conv1.conv.modulation.weight", 2)
    channels = {4: first}
    while (name := f"convs.{2 * len(channels) - 1}.conv.weight") in found:
        channels[2 * max(channels)] = state_dicts.shape_of(found, name, 5)[1]
        if len(channels) > 9:
            raise Refused("it draws more than 1024 px")
    resolution = max(channels)
    if resolution < 32:
        raise Refused(f"it draws {resolution} px, and the least that is supported is 32")
    mapping_layers = sum(f"style.{i}.weight" in found for i in range(1, 65))
    return resolution, channels, w_dim, mapping_layers


def _expected(sizes: tuple[int, dict[int, int], int, int]) -> dict[str, tuple[int, ...]]:
    return state_dicts.without_memory(lambda: Generator(*sizes))
