"""StyleGAN2 generators from any of their published files, of any resolution and width.

PyTorch and safetensors files in any of the `layouts`, and NVIDIA's TensorFlow and PyTorch pickles.
Names and shapes are compared with those of a network on PyTorch's meta device before any number is
copied.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from styleclip_export.checkpoints import contents, layouts, nvidia_pickles, state_dicts, torch_file
from styleclip_export.checkpoints.checkpoint_file import open_checkpoint
from styleclip_export.checkpoints.nvidia_common import TranslatedGenerator
from styleclip_export.checkpoints.unpickler import UnsupportedFile
from styleclip_export.file_kinds import MAGIC_BYTES
from styleclip_networks.sizes import count_modules, generator_sizes
from styleclip_networks.stylegan2 import Generator

EXPECTED = "a StyleGAN2 generator (NVIDIA's .pkl, rosinality's .pt, e4e's or PTI's)"
_MIN_RESOLUTION, _MAX_RESOLUTION = 32, 1024
_MAX_CONVS = 2 * int(math.log2(_MAX_RESOLUTION / 4))  # two for each resolution above 4 px
_MAX_MAPPING_LAYERS = 64
_RESAMPLE_KERNELS = ("blur.kernel", "upsample.kernel")  # ends of their names
_AVERAGED_LATENTS = 10_000  # whose mean replaces an average that the file lacks


@dataclass(frozen=True)
class GeneratorCheckpoint:
    """A generator in a file.

    Attributes:
        layout: the kind of file.
        sizes: arguments of `Generator`.
        state: the state_dict under our (rosinality's) names, float32.
        w_avg: the average latent (w_dim,), or None where the file has none.
        notes: what a user should know about the network.
    """

    layout: str
    sizes: dict[str, Any]
    state: dict[str, Tensor]
    w_avg: Tensor | None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_content(cls, content: Any, file_size: int) -> GeneratorCheckpoint:
        """Take the generator from the content of a PyTorch file.

        Raises:
            UnsupportedFile: there is none.
        """
        found = layouts.locate_generator(content)
        average = layouts.average_latent(content)
        if average is not None and average.ndim == 2:  # e4e keeps one row for each latent
            average = average[0] if (average == average[:1]).all() else None
        if average is not None:
            found.w_avg = average
        return cls.from_arrays(found, file_size)

    @classmethod
    def from_arrays(cls, found: TranslatedGenerator, file_size: int) -> GeneratorCheckpoint:
        """Build a checkpoint from arrays under our names.

        Raises:
            UnsupportedFile: names or shapes are not those of one StyleGAN2.
        """
        arrays, w_avg = found.arrays, found.w_avg
        sizes = _sizes(arrays)
        shapes = state_dicts.expected_shapes(partial(Generator, **sizes))
        state_dicts.check_total_size(arrays.values(), file_size)
        defaults, notes = _defaults(arrays, shapes)
        arrays = defaults | arrays
        state_dicts.check_shapes(arrays, shapes)
        for name in shapes:
            if name.endswith(_RESAMPLE_KERNELS):
                state_dicts.check_resample_kernel(arrays[name], name)
        if w_avg is not None and w_avg.shape != (sizes["w_dim"],):
            raise UnsupportedFile(
                f"its average latent has the shape {w_avg.shape}, not ({sizes['w_dim']},)"
            )
        return cls(
            found.layout,
            sizes,
            state_dicts.to_tensors(arrays, shapes),
            None if w_avg is None else state_dicts.to_tensor(w_avg, "the average latent"),
            (*found.notes, *notes),
        )

    @property
    def num_latents(self) -> int:
        """L, the rows of W+: two for each resolution."""
        return 2 * len(self.sizes["channels"])

    def network(self) -> Generator:
        """Build the generator, which shares its memory with `state`."""
        return state_dicts.build_network(partial(Generator, **self.sizes), self.state)

    def w_avg_or_mean(self, generator: Generator) -> Tensor:
        """Return the average latent (w_dim,).

        Where the file has none, it is the mean of 10,000 latents, the same at each call.
        """
        if self.w_avg is not None:
            return self.w_avg
        with torch.inference_mode():
            seeded = torch.Generator().manual_seed(0)
            z = torch.randn(_AVERAGED_LATENTS, generator.w_dim, generator=seeded)
            return generator.mapping(z).mean(0).clone()


def read_generator(path: Path) -> GeneratorCheckpoint:
    """Read a generator.

    Raises:
        CheckpointError: the file has another format, or is damaged or hostile.
    """
    with open_checkpoint(Path(path), EXPECTED, contents.KINDS) as data:
        if data[:1] == MAGIC_BYTES["pickle"][0] and not torch_file.is_legacy(data):
            return GeneratorCheckpoint.from_arrays(nvidia_pickles.read(data), len(data))
        return GeneratorCheckpoint.from_content(contents.read(data), len(data))


def _defaults(
    arrays: dict[str, np.ndarray], shapes: state_dicts.Shapes
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return what files may leave out, and what to say about it.

    Resampling filters are always the same. A network trained without noise has neither strengths
    nor images of it, which are zero. Strengths without images want noise: rosinality's code then
    draws its own images at random, and so do we, the same at each call.
    """
    defaults = {
        name: state_dicts.RESAMPLE_KERNEL for name in shapes if name.endswith(_RESAMPLE_KERNELS)
    }
    if any(name.startswith("noises.") for name in arrays):
        return defaults, []
    has_strengths = any(name.endswith(".noise.weight") for name in arrays)
    rng = np.random.default_rng(0)
    for name, shape in shapes.items():
        if name.startswith("noises.") and has_strengths:
            defaults[name] = rng.standard_normal(shape, np.float32)
        elif name.startswith("noises.") or name.endswith(".noise.weight"):
            defaults[name] = np.zeros(shape, np.float32)
    if not has_strengths:
        return defaults, ["the file has no noise: the images get none"]
    return defaults, [
        "the file has no noise images: random ones, always the same, replace them, so the finest "
        "details (single hairs) differ from those of other programs"
    ]


def _sizes(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Return the arguments of `Generator`, from shapes within its bounds."""
    state_dicts.shape_of(arrays, "conv1.conv.weight", 5)
    state_dicts.shape_of(arrays, "conv1.conv.modulation.weight", 2)
    num_convs = count_modules(arrays, "convs.{}.conv.weight")
    if num_convs > _MAX_CONVS:
        raise UnsupportedFile(f"it draws more than {_MAX_RESOLUTION} px")
    for i in range(num_convs):
        state_dicts.shape_of(arrays, f"convs.{i}.conv.weight", 5)
    sizes = generator_sizes(state_dicts.shapes_of(arrays))
    if sizes["resolution"] < _MIN_RESOLUTION:
        raise UnsupportedFile(
            f"it draws {sizes['resolution']} px, and the least that is supported is "
            f"{_MIN_RESOLUTION}"
        )
    if sizes["mapping_layers"] > _MAX_MAPPING_LAYERS:
        raise UnsupportedFile(f"its mapping network has more than {_MAX_MAPPING_LAYERS} layers")
    return sizes
