"""Directions in files of other projects, of any of their formats and shapes.

InterFaceGAN's boundaries (genforce/interfacegan, `.npy`; as tensors in encoder4editing,
`editings/interfacegan_directions/*.pt`), GANSpace's components (harskish/ganspace, `.npz`;
encoder4editing, `editings/ganspace_pca/*.pt`), StyleCLIP's latent mappers, and plain arrays.
Nothing in a file is executed.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from styleclip_contract.wire import W_DIM
from styleclip_export.checkpoints import contents, latent_mapper, state_dicts
from styleclip_export.checkpoints.checkpoint_file import open_checkpoint
from styleclip_export.checkpoints.pickled_arrays import FileArray
from styleclip_export.checkpoints.unpickler import UnsupportedFile
from styleclip_export.file_kinds import HEAD_BYTES, is_kind
from styleclip_networks.mapper import LatentMapper

_EXPECTED = "a direction (.npy, .npz, .pt, .safetensors) or a latent mapper (.pt)"
_REMEDY = "see docs/directions.md"
_MAX_BYTES = 64 << 20  # of an array; a mapper may lie in a larger file
_COMPONENTS, _DEVIATIONS = ("comp", "lat_comp"), ("std", "lat_stdev")  # GANSpace's names
# What a file of several arrays may call its direction, in order of preference.
_NAMES = ("w_plus", "direction", "boundary", "offset")

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Components:
    """GANSpace's principal components of W.

    Attributes:
        components: (K, 512), of unit length.
        deviations: (K,), standard deviation of W along each.
    """

    components: FloatArray
    deviations: FloatArray


DirectionContent = FloatArray | Components | LatentMapper


def read(path: Path) -> DirectionContent:
    """Read a file.

    Returns:
        A direction as an array (512,), (1, 512), (L, 512) or (S,); GANSpace's components; or a
        latent mapper.

    Raises:
        CheckpointError: the file has another format, or is damaged or hostile.
    """
    path = Path(path)
    with open_checkpoint(path, _EXPECTED, (*contents.KINDS, "npy"), _REMEDY) as data:
        if is_kind(bytes(data[:HEAD_BYTES]), "npy"):
            return _to_direction(np.load(path, mmap_mode="r", allow_pickle=False))
        if zipfile.is_zipfile(path) and (arrays := _npz_arrays(path)):
            return _from_arrays(arrays)
        content = contents.read(data)
        if latent_mapper.is_mapper(content):
            return latent_mapper.from_content(content, len(data))
        if isinstance(content, FileArray):
            return _to_direction(content.view())
        return _from_arrays(state_dicts.select_arrays(content))


def _npz_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of a NumPy archive; none if it is another zip archive."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
    if not entries or not all(entry.filename.endswith(".npy") for entry in entries):
        return {}
    if sum(entry.file_size for entry in entries) > _MAX_BYTES:
        raise UnsupportedFile(f"its arrays have more than {_MAX_BYTES >> 20} MiB")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def _from_arrays(arrays: Mapping[str, NDArray[Any]]) -> FloatArray | Components:
    """Return GANSpace's components, or the only direction among named arrays."""
    components, deviations = _first(_COMPONENTS, arrays), _first(_DEVIATIONS, arrays)
    if components and deviations:
        return _to_components(arrays[components], arrays[deviations])
    name = _first(_NAMES, arrays)
    if name is None and len(arrays) == 1:
        (name,) = arrays
    if name is None:
        known = ", ".join(sorted(arrays)[:5]) or "none"
        raise UnsupportedFile(
            f"it has the arrays {known}; one is expected, or one named {', '.join(_NAMES)}"
        )
    return _to_direction(arrays[name])


def _first(names: Sequence[str], arrays: Mapping[str, NDArray[Any]]) -> str | None:
    """Return the first of the names that there is."""
    return next((name for name in names if name in arrays), None)


def _to_components(components: NDArray[Any], deviations: NDArray[Any]) -> Components:
    rows, stds = _to_floats(components), _to_floats(deviations).reshape(-1)
    if rows.size != len(stds) * W_DIM:
        raise UnsupportedFile(
            f"its components have the shape {rows.shape}; ({len(stds)}, {W_DIM}) is expected"
        )
    return Components(rows.reshape(-1, W_DIM), stds)


def _to_direction(array: NDArray[Any]) -> FloatArray:
    direction = _to_floats(array)
    if not direction.any():
        raise UnsupportedFile("its numbers are all zero")
    return direction


def _to_floats(array: NDArray[Any]) -> FloatArray:
    if not array.size or array.nbytes > _MAX_BYTES:
        raise UnsupportedFile(f"it contains an array of shape {array.shape}")
    return state_dicts.to_tensor(array, "the array").numpy()
