"""e4e's and pSp's checkpoints: the encoder, the average latent and the decoder, a StyleGAN2.

Layout: omertov/encoder4editing and eladrich/pixel2style2pixel, `models/psp.py` and
`training/coach.py`: `state_dict` with the prefixes `encoder.` and `decoder.`, `latent_avg`, and
`opts`, the training's options. The two encoders have the same parameters and another sum at the
end, so that only `opts.encoder_type` tells them apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
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
from styleclip_networks.sizes import count_modules, encoder_sizes

EXPECTED = "an e4e or pSp checkpoint (e4e_*_encode.pt, psp_*_encode.pt)"
_MARK, _PREFIXES = "input_layer.0.weight", ("encoder.", "")
_MAX_LATENTS, _MAX_UNITS = 18, 100
CARS_CROP = (192, 256)  # e4e's `transforms_config.py`
_KINDS: dict[Any, str] = {"Encoder4Editing": "e4e", "GradualStyleEncoder": "pSp"}  # encoder_type
_NETWORKS: dict[str, type[GradualStyleEncoder]] = {
    "e4e": Encoder4Editing,
    "pSp": GradualStyleEncoder,
}

TrainingOptions = Mapping[str, str | int | float | None]


@dataclass(frozen=True)
class EncoderCheckpoint:
    """An encoder, and the decoder that it was trained for, in a file.

    Attributes:
        kind: "e4e" or "pSp".
        sizes: arguments of the network.
        state: the encoder's state_dict, float32 (counters int64).
        w_avg: (L, w_dim) or (w_dim,), added to the encoder's output; None: nothing is added.
        options: texts and numbers among the training's options.
        decoder: None if the file has none.
        notes: what a user should know about the file.
    """

    kind: str
    sizes: dict[str, Any]
    state: dict[str, Tensor]
    w_avg: Tensor | None
    options: TrainingOptions
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
        kind, notes = _kind(options)
        sizes = _sizes(arrays)
        shapes = state_dicts.expected_shapes(partial(_NETWORKS[kind], **sizes))
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
        return state_dicts.build_network(partial(_NETWORKS[self.kind], **self.sizes), self.state)


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


def _kind(options: TrainingOptions) -> tuple[str, list[str]]:
    """Return the encoder's kind, and notes."""
    name = options.get("encoder_type")
    if name is None:
        return "e4e", ["its opts name no encoder_type: it is taken for e4e's"]
    if name not in _KINDS:
        raise UnsupportedFile(
            f"its encoder is a {str(name)[:60]} (opts.encoder_type), and only "
            f"{' and '.join(_KINDS)} are supported"
        )
    if _is_true(options.get("learn_in_w")):
        raise UnsupportedFile("its encoder gives W (opts.learn_in_w), and W+ is needed")
    return _KINDS[name], []


def _read_decoder(
    content: dict[Any, Any], file_size: int, sizes: dict[str, Any]
) -> GeneratorCheckpoint | None:
    """Read the decoder, and check that it takes what the encoder gives."""
    state_dict = content.get("state_dict", content)
    if not any(isinstance(name, str) and "decoder." in name for name in state_dict):
        return None
    decoder = GeneratorCheckpoint.from_content(content, file_size)
    given, taken = (
        (sizes["num_latents"], sizes["w_dim"]),
        (decoder.num_latents, decoder.sizes["w_dim"]),
    )
    if given != taken:
        raise UnsupportedFile(
            f"its encoder gives {given[0]} latents of {given[1]}, but its decoder "
            f"of {decoder.sizes['resolution']} px takes {taken[0]} of {taken[1]}"
        )
    return decoder


def _added_latent(
    average: np.ndarray | None,
    options: TrainingOptions,
    sizes: dict[str, Any],
    decoder: GeneratorCheckpoint | None,
) -> tuple[Tensor | None, list[str]]:
    """Return what is added to the encoder's output, as the official code does it, and notes."""
    w_dim = sizes["w_dim"]
    if average is not None and average.shape not in ((sizes["num_latents"], w_dim), (w_dim,)):
        raise UnsupportedFile(f"its 'latent_avg' has the shape {average.shape}")
    starts = options.get("start_from_latent_avg")
    if starts is not None and not _is_true(starts):
        return None, []
    if average is not None:
        return state_dicts.to_tensor(average, "latent_avg"), []
    if starts is None or decoder is None:
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


def _sizes(arrays: state_dicts.Arrays) -> dict[str, Any]:
    """Return the arguments of the encoder, from shapes within its bounds."""
    num_latents = count_modules(arrays, "styles.{}.linear.weight")
    num_units = count_modules(arrays, "body.{}.res_layer.1.weight")
    if not (0 < num_latents <= _MAX_LATENTS and 0 < num_units <= _MAX_UNITS):
        raise UnsupportedFile("it contains no encoder with e4e's layers")
    state_dicts.shape_of(arrays, "styles.0.linear.weight", 2)
    for i in range(num_units):
        state_dicts.shape_of(arrays, f"body.{i}.res_layer.1.weight", 4)
    sizes = encoder_sizes(state_dicts.shapes_of(arrays))
    if len(sizes["widths"]) != 4:
        raise UnsupportedFile(f"its backbone has stages of {len(sizes['widths'])} widths, not of 4")
    return sizes


def _texts_and_numbers(options: Any) -> dict[str, str | int | float | None]:
    if isinstance(options, InertObject):
        options = options.state
    if not isinstance(options, dict):
        return {}
    kinds = (str, int, float, bool, type(None))
    return {str(key): value for key, value in options.items() if isinstance(value, kinds)}
