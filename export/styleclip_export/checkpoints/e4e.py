"""e4e's checkpoints: the encoder, the average latent and the decoder, a StyleGAN2 generator.

Layout: omertov/encoder4editing, `models/psp.py` and `training/coach.py`: `state_dict` with the
prefixes `encoder.` and `decoder.`, `latent_avg`, and `opts`, the training's options.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from styleclip_export.checkpoints import generators, state_dicts, torch_file
from styleclip_export.checkpoints.checkpoint_file import open_checkpoint
from styleclip_export.checkpoints.generators import GeneratorCheckpoint
from styleclip_export.checkpoints.unpickler import InertObject, UnsupportedFile
from styleclip_networks.e4e import Encoder4Editing

EXPECTED = "an e4e checkpoint (e4e_*_encode.pt)"
_PREFIX = "encoder."
_MAX_LATENTS, _MAX_UNITS = 18, 100


@dataclass(frozen=True)
class EncoderSizes:
    """The arguments of `Encoder4Editing`."""

    num_latents: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    style_width: int
    w_dim: int

    def build(self) -> Encoder4Editing:
        return Encoder4Editing(
            self.num_latents, self.widths, self.depths, self.style_width, self.w_dim
        )


@dataclass(frozen=True)
class EncoderCheckpoint:
    """An encoder and its decoder in a file.

    Attributes:
        state: the encoder's state_dict, float32 (counters int64).
        w_avg: (L, w_dim) or (w_dim,), added to the encoder's output.
        options: texts and numbers among the training's options.
    """

    sizes: EncoderSizes
    state: dict[str, Tensor]
    w_avg: Tensor
    options: Mapping[str, str | int | float | None]
    decoder: GeneratorCheckpoint

    @classmethod
    def from_content(cls, content: Any, file_size: int) -> EncoderCheckpoint:
        """Take the encoder and its decoder from the content of a PyTorch file.

        Raises:
            UnsupportedFile: they are missing, or do not fit together.
        """
        if not isinstance(content, dict) or "state_dict" not in content:
            raise UnsupportedFile("it contains no 'state_dict'")
        arrays = state_dicts.select_arrays(content["state_dict"], _PREFIX)
        average = generators.average_latent(content)
        if average is None:
            raise UnsupportedFile("it contains no average latent ('latent_avg')")
        sizes = _sizes(arrays)
        shapes = state_dicts.expected_shapes(sizes.build)
        state_dicts.check_shapes(arrays, shapes)
        state_dicts.check_total_size(arrays.values(), file_size)
        if average.shape not in ((sizes.num_latents, sizes.w_dim), (sizes.w_dim,)):
            raise UnsupportedFile(f"its 'latent_avg' has the shape {average.shape}")
        decoder = GeneratorCheckpoint.from_content(content, file_size)
        expected = decoder.sizes
        if (expected.num_latents, expected.w_dim) != (sizes.num_latents, sizes.w_dim):
            raise UnsupportedFile(
                f"its encoder gives {sizes.num_latents} latents of {sizes.w_dim}, but its decoder "
                f"of {expected.resolution} px takes {expected.num_latents} of {expected.w_dim}"
            )
        return cls(
            sizes,
            state_dicts.to_tensors(arrays, shapes),
            state_dicts.to_tensor(average, "latent_avg"),
            _texts_and_numbers(content.get("opts")),
            decoder,
        )

    def network(self) -> Encoder4Editing:
        """Build the encoder, which shares its memory with `state`."""
        return state_dicts.build_network(self.sizes.build, self.state)


def read(path: Path) -> EncoderCheckpoint:
    """Read an encoder and its decoder.

    Raises:
        CheckpointError: the file is another, damaged or hostile.
    """
    with open_checkpoint(Path(path), EXPECTED) as data:
        return EncoderCheckpoint.from_content(torch_file.read(data), len(data))


def _sizes(arrays: state_dicts.Arrays) -> EncoderSizes:
    """Return the arguments of `Encoder4Editing` from the shapes."""
    num_latents = _count(arrays, r"styles\.(\d+)\.", _MAX_LATENTS)
    widths, depths = _backbone_stages(arrays)
    w_dim, style_width = state_dicts.shape_of(arrays, "styles.0.linear.weight", 2)
    return EncoderSizes(num_latents, tuple(widths), tuple(depths), style_width, w_dim)


def _backbone_stages(arrays: state_dicts.Arrays) -> tuple[list[int], list[int]]:
    """Return widths and depths of the backbone's stages; a stage begins where the width changes."""
    widths: list[int] = []
    depths: list[int] = []
    for i in range(_count(arrays, r"body\.(\d+)\.", _MAX_UNITS)):
        width = state_dicts.shape_of(arrays, f"body.{i}.res_layer.1.weight", 4)[0]
        if not widths or width != widths[-1]:
            widths.append(width)
            depths.append(0)
        depths[-1] += 1
    if len(widths) != 4:
        raise UnsupportedFile(f"its backbone has stages of {len(widths)} widths, not of 4")
    return widths, depths


def _count(arrays: state_dicts.Arrays, pattern: str, limit: int) -> int:
    count = state_dicts.count_numbered(arrays, pattern, limit)
    if not count:
        raise UnsupportedFile("it contains no encoder with e4e's layers")
    return count


def _texts_and_numbers(options: Any) -> dict[str, str | int | float | None]:
    if isinstance(options, InertObject):
        options = options.state
    if not isinstance(options, dict):
        return {}
    kinds = (str, int, float, bool, type(None))
    return {str(key): value for key, value in options.items() if isinstance(value, kinds)}
