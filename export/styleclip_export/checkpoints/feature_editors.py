"""StyleFeatureEditor's checkpoints: the inverter, and the feature editor trained for it.

Layout: AIRI-Institute/StyleFeatureEditor, `models/methods.py`. A file of the feature editor has
`state_dict` with the prefixes `inverter.` and `encoder.`, the feature editor; in a file of the
inverter alone, `encoder.` is the inverter. Files that are not "light" also have the
discriminator, which is ignored. Generator and average latent are those of e4e's checkpoint.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from torch import nn

from styleclip_export.checkpoints import contents, layouts, state_dicts
from styleclip_export.checkpoints.checkpoint_file import open_checkpoint
from styleclip_export.checkpoints.unpickler import UnsupportedFile
from styleclip_networks.sfe import FeatureFuser, Inverter
from styleclip_networks.sizes import feature_fuser_sizes, inverter_sizes

EXPECTED = "a StyleFeatureEditor checkpoint (sfe_editor_light.pt, sfe_inverter_light.pt)"
_MARK, _PREFIXES = "fs_backbone.conv.0.weight", ("inverter.", "encoder.", "")
_MAX_LATENTS, _MAX_UNITS, _MAX_SIZE = 18, 100, 1 << 14

_Network = TypeVar("_Network", bound=nn.Module)
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class FeatureEditorCheckpoint:
    """The networks in a file. editor: None where the file has only the inverter."""

    inverter: Inverter
    editor: FeatureFuser | None

    @classmethod
    def from_content(cls, content: Any, file_size: int) -> FeatureEditorCheckpoint:
        """Take the networks from the content of a PyTorch or safetensors file.

        Raises:
            UnsupportedFile: it has no inverter, or an editor that does not fit it.
        """
        if not isinstance(content, dict):
            raise UnsupportedFile("it contains no dictionary")
        arrays = state_dicts.select_arrays(content.get("state_dict", content))
        found = layouts.strip_prefix(arrays, _MARK, _PREFIXES)
        if found is None:
            raise UnsupportedFile("it contains no inverter with StyleFeatureEditor's layers")
        prefix, inverter_arrays = found
        inverter = _build_inverter(inverter_arrays, file_size)
        if not prefix.endswith("inverter."):
            return cls(inverter, None)
        editor_arrays = state_dicts.select_arrays(
            content.get("state_dict", content), prefix.removesuffix("inverter.") + "encoder."
        )
        if not editor_arrays:
            return cls(inverter, None)
        return cls(inverter, _build_editor(editor_arrays, file_size, inverter))


def read_feature_editor(path: Path) -> FeatureEditorCheckpoint:
    """Read an inverter, and its feature editor where the file has one.

    Raises:
        CheckpointError: the file has another format, or is damaged or hostile.
    """
    with open_checkpoint(Path(path), EXPECTED, contents.KINDS) as data:
        return FeatureEditorCheckpoint.from_content(contents.read(data), len(data))


def _build_inverter(arrays: Arrays, file_size: int) -> Inverter:
    sizes = _sizes(arrays, inverter_sizes)
    if len(sizes["widths"]) != 4:
        raise UnsupportedFile(f"its inverter has {len(sizes['widths'])} stages, not 4")
    if not 0 < sizes["num_latents"] <= _MAX_LATENTS:
        raise UnsupportedFile(f"its inverter gives {sizes['num_latents']} latents")
    if max(*sizes["depths"], sizes["fuser_units"]) > _MAX_UNITS:
        raise UnsupportedFile("its inverter has too many layers")
    return _build(lambda: Inverter(**sizes), arrays, file_size)


def _build_editor(arrays: Arrays, file_size: int, inverter: Inverter) -> FeatureFuser:
    sizes = _sizes(arrays, feature_fuser_sizes)
    channels = inverter.fuser.conv.out_channels
    if sizes["channels"] != channels or sizes["units"] > _MAX_UNITS:
        raise UnsupportedFile(
            f"its feature editor is of {sizes['channels']} channels and {sizes['units']} units, "
            f"and its inverter of {channels} channels"
        )
    return _build(lambda: FeatureFuser(**sizes), arrays, file_size)


def _sizes(arrays: Arrays, sizes_of: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    """Return the arguments of a network, from shapes of a reasonable size."""
    for name, array in arrays.items():
        if not all(0 < n <= _MAX_SIZE for n in array.shape):
            raise UnsupportedFile(f"{name[:80]!r} has the shape {array.shape}")
    try:
        return sizes_of({name: array.shape for name, array in arrays.items()})
    except KeyError as error:
        raise UnsupportedFile(f"it has no {error}") from error


def _build(build: Callable[[], _Network], arrays: Arrays, file_size: int) -> _Network:
    shapes = state_dicts.expected_shapes(build)
    state_dicts.check_shapes(arrays, shapes)
    state_dicts.check_total_size(arrays.values(), file_size)
    return state_dicts.build_network(build, state_dicts.to_tensors(arrays, shapes))
