"""e4e's and pSp's checkpoints: the encoder, the average latent and the decoder, a StyleGAN2.

Layout: omertov/encoder4editing and eladrich/pixel2style2pixel, `models/psp.py` and
`training/coach.py`: `state_dict` with the prefixes `encoder.` and `decoder.`, `latent_avg`, and
`opts`, the training's options. The two encoders have the same parameters and another sum at the
end, so that only `opts.encoder_type` tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from styleclip_contract.wire import FACE_SIZE
from styleclip_export.checkpoints import contents, layouts, state_dicts
from styleclip_export.checkpoints.checkpoint_file import open_checkpoint
from styleclip_export.checkpoints.generators import GeneratorCheckpoint
from styleclip_export.checkpoints.unpickler import InertObject, UnsupportedFile
from styleclip_networks.e4e import Encoder4Editing, GradualStyleEncoder

EXPECTED = "an e4e or pSp checkpoint (e4e_*_encode.pt, psp_*_encode.pt)"
_MARK, _PREFIXES = "input_layer.0.weight", ("encoder.", "")
_MAX_LATENTS, _MAX_UNITS = 18, 100
CARS_CROP = (192, 256)  # e4e's `transforms_config.py`
# opts.encoder_type → the network, and the project's name for it.
_ENCODERS: dict[Any, tuple[type[GradualStyleEncoder], str]] = {
    "Encoder4Editing": (Encoder4Editing, "e4e"),
    "GradualStyleEncoder": (GradualStyleEncoder, "pSp"),
}

Options = Mapping[str, str | int | float | None]


@dataclass(frozen=True)
class EncoderSizes:
    """The class of the encoder, and its arguments."""

    encoder: type[GradualStyleEncoder]
    num_latents: int
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    style_width: int
    w_dim: int

    def build(self) -> GradualStyleEncoder:
        return self.encoder(
            self.num_latents, self.widths, self.depths, self.style_width, self.w_dim
        )


@dataclass(frozen=True)
class EncoderCheckpoint:
    """An encoder, and the decoder that it was trained for, in a file.

    Attributes:
        kind: "e4e" or "pSp".
        state: the encoder's state_dict, float32 (counters int64).
        w_avg: (L, w_dim) or (w_dim,), added to the encoder's output; None: nothing is added.
        options: texts and numbers among the training's options.
        decoder: None if the file has none.
        notes: what a user should know about the file.
    """

    kind: str
    sizes: EncoderSizes
    state: dict[str, Tensor]
    w_avg: Tensor | None
    options: Options
    decoder: GeneratorCheckpoint | None
    notes: tuple[str, ...] = ()

    @classmethod
    def from_content(cls, content: Any, file_size: int) -> EncoderCheckpoint:
        """Take the encoder and its decoder from the content of a PyTorch or safetensors file.

        Raises:
            UnsupportedFile: it has no encoder of a known kind, or one unfit for its decoder.
        """
        if not isinstance(content, dict):
            raise UnsupportedFile("it contains no dictionary")
        arrays = _encoder_arrays(content)
        options = _texts_and_numbers(content.get("opts"))
        encoder, kind, notes = _encoder_type(options)
        sizes = _sizes(encoder, arrays)
        shapes = state_dicts.expected_shapes(sizes.build)
        state_dicts.check_shapes(arrays, shapes)
        state_dicts.check_total_size(arrays.values(), file_size)
        decoder = _read_decoder(content, file_size, sizes)
        w_avg, more_notes = _added_latent(layouts.average_latent(content), options, sizes, decoder)
        return cls(
            kind,
            sizes,
            state_dicts.to_tensors(arrays, shapes),
            w_avg,
            options,
            decoder,
            (*notes, *more_notes, *(decoder.notes if decoder else ())),
        )

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width of the images that it was trained on, by e4e's `data_configs.py`."""
        cars = "cars_" in str(self.options.get("dataset_type"))
        return CARS_CROP if cars else (FACE_SIZE, FACE_SIZE)

    def network(self) -> GradualStyleEncoder:
        """Build the encoder, which shares its memory with `state`."""
        return state_dicts.build_network(self.sizes.build, self.state)


def read_encoder(path: Path) -> EncoderCheckpoint:
    """Read an encoder, and its decoder where the file has one.

    Raises:
        CheckpointError: the file has another format, or is damaged or hostile.
    """
    with open_checkpoint(Path(path), EXPECTED, contents.KINDS) as data:
        return EncoderCheckpoint.from_content(contents.read(data), len(data))


def _encoder_arrays(content: dict[Any, Any]) -> dict[str, np.ndarray]:
    state_dict = content.get("state_dict", content)
    found = layouts.strip_prefix(state_dicts.select_arrays(state_dict), _MARK, _PREFIXES)
    if found is None:
        raise UnsupportedFile("it contains no encoder with e4e's layers")
    arrays = found[1]
    channels = state_dicts.shape_of(arrays, _MARK, 4)[1]
    if channels != 3:
        raise UnsupportedFile(
            f"its encoder reads images of {channels} channels, and photos have 3 (RGB)"
        )
    return arrays


def _encoder_type(options: Options) -> tuple[type[GradualStyleEncoder], str, list[str]]:
    """Return the encoder's class, its project's name, and notes."""
    name = options.get("encoder_type")
    if name is None:
        return Encoder4Editing, "e4e", ["its opts name no encoder_type: it is taken for e4e's"]
    if name not in _ENCODERS:
        raise UnsupportedFile(
            f"its encoder is a {str(name)[:60]} (opts.encoder_type), and only "
            f"{' and '.join(_ENCODERS)} are supported"
        )
    if _is_true(options.get("learn_in_w")):
        raise UnsupportedFile("its encoder gives W (opts.learn_in_w), and W+ is needed")
    return *_ENCODERS[name], []


def _read_decoder(
    content: dict[Any, Any], file_size: int, sizes: EncoderSizes
) -> GeneratorCheckpoint | None:
    """Read the decoder, and check that it takes what the encoder gives."""
    state_dict = content.get("state_dict", content)
    if not any(isinstance(name, str) and "decoder." in name for name in state_dict):
        return None
    decoder = GeneratorCheckpoint.from_content(content, file_size)
    expected = decoder.sizes
    if (expected.num_latents, expected.w_dim) != (sizes.num_latents, sizes.w_dim):
        raise UnsupportedFile(
            f"its encoder gives {sizes.num_latents} latents of {sizes.w_dim}, but its decoder "
            f"of {expected.resolution} px takes {expected.num_latents} of {expected.w_dim}"
        )
    return decoder


def _added_latent(
    average: np.ndarray | None,
    options: Options,
    sizes: EncoderSizes,
    decoder: GeneratorCheckpoint | None,
) -> tuple[Tensor | None, list[str]]:
    """Return what is added to the encoder's output, as the official code does it, and notes."""
    if average is not None and average.shape not in (
        (sizes.num_latents, sizes.w_dim),
        (sizes.w_dim,),
    ):
        raise UnsupportedFile(f"its 'latent_avg' has the shape {average.shape}")
    wanted = options.get("start_from_latent_avg")
    if wanted is not None and not _is_true(wanted):
        return None, []
    if average is not None:
        return state_dicts.to_tensor(average, "latent_avg"), []
    if wanted is None or decoder is None:
        raise UnsupportedFile(
            "it contains no average latent ('latent_avg'), and its opts do not say that it needs "
            "none (start_from_latent_avg)"
        )
    return decoder.w_avg_or_mean(decoder.network()), [
        "the file has no latent_avg: the mean of 10,000 latents of its decoder replaces it"
    ]


def _is_true(value: Any) -> bool:
    """Read a flag, which safetensors keeps as a text."""
    return value.strip().lower() in ("true", "1") if isinstance(value, str) else bool(value)


def _sizes(encoder: type[GradualStyleEncoder], arrays: state_dicts.Arrays) -> EncoderSizes:
    """Return the arguments of the encoder from the shapes."""
    num_latents = _count(arrays, r"styles\.(\d+)\.", _MAX_LATENTS)
    widths, depths = _backbone_stages(arrays)
    w_dim, style_width = state_dicts.shape_of(arrays, "styles.0.linear.weight", 2)
    return EncoderSizes(encoder, num_latents, tuple(widths), tuple(depths), style_width, w_dim)


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
