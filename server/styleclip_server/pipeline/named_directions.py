"""Named directions of a domain: edits without texts, from the files in its folder `directions`.

S is affine in W+ (S = A w + b), so a W+ direction d of strength f is the constant StyleSpace offset
f A d: of InterFaceGAN (Shen et al. 2020, section 3.2) and GANSpace (Härkönen et al. 2020, section
3.2) a file keeps A d. A latent mapper (Patashnik et al. 2021, "StyleCLIP", section 5; the official
`mapper/latent_mappers.py` and `mapper/scripts/inference.py`) depends on the face: a file keeps its
layers, and the offset is f A (0.1 mapper(w)).

In shapes, S is the number of StyleSpace channels, L that of latents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from styleclip_contract.domain import Domain
from styleclip_contract.edits import Edit
from styleclip_contract.errors import InvalidLatent
from styleclip_networks.constants import MAPPER_GROUPS, MAPPER_LAYERS, PIXEL_NORM_EPS
from styleclip_networks.stylespace import latent_row
from styleclip_server.pipeline.fully_connected import fully_connected

FOLDER = "directions"
AFFINE_FILE = "affine.npz"  # beside the folder, where the domain has a mapper
MAPPER_STEP = 0.1  # of the official inference: w + 0.1 mapper(w)

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Affine:
    """The linear part A of the generator's affine layers.

    Attributes:
        weight: (S, 512) float32.
        style_channels: the number of channels of each modulation, in execution order.
    """

    weight: FloatArray
    style_channels: tuple[int, ...]

    def offset(self, w_offset: FloatArray) -> FloatArray:
        """Return A d, (S,), of an offset d in W+, (L, 512)."""
        ends = np.cumsum(self.style_channels)
        parts = np.split(self.weight, ends[:-1])
        return np.concatenate([part @ w_offset[latent_row(i)] for i, part in enumerate(parts)])


@dataclass(frozen=True)
class Mapper:
    """StyleCLIP's latent mapper: a network for each group of rows of W+.

    Attributes:
        groups: by name (see `MAPPER_GROUPS`), the layers of `fully_connected`. Rows without a group
            stay.
    """

    groups: Mapping[str, Sequence[tuple[FloatArray, FloatArray]]]

    def offset(self, w_plus: FloatArray) -> FloatArray:
        """Return mapper(w), (L, 512), of W+ (L, 512)."""
        result = np.zeros_like(w_plus)
        for name, layers in self.groups.items():
            rows = w_plus[MAPPER_GROUPS[name]]
            if len(rows):
                # The official PixelNorm, given (N, rows, 512), normalizes over the group's rows.
                x = rows / np.sqrt(np.square(rows).mean(0) + PIXEL_NORM_EPS)
                result[MAPPER_GROUPS[name]] = fully_connected(x, layers)
        return result


@dataclass(frozen=True)
class NamedDirections:
    """The directions of a domain by name.

    Attributes:
        offsets: (S,) float32 for strength 1.
        mappers: those that depend on the face.
        affine: A, where there is a mapper.
    """

    offsets: Mapping[str, FloatArray]
    mappers: Mapping[str, Mapper]
    affine: Affine | None

    def follows_face(self, edit: Edit) -> bool:
        """Return whether the offset of an edit needs the latent."""
        return edit.direction in self.mappers

    def constant_offset(self, edit: Edit) -> FloatArray:
        """Return the offset (S,) of an edit that does not depend on the face."""
        return np.float32(edit.strength) * self.offsets[edit.direction]

    def face_offset(self, edit: Edit, w_plus: FloatArray | None) -> FloatArray:
        """Return the offset (S,) of an edit by a mapper.

        Raises:
            InvalidLatent: there is no latent (L, 512), or one of another generator.
        """
        assert self.affine
        rows = latent_row(len(self.affine.style_channels) - 1) + 1
        if w_plus is None or len(w_plus) != rows:
            raise InvalidLatent(
                f"{edit.direction} depends on the face: send W_PLUS of {rows} rows, the output of "
                "`invert`"
            )
        step = np.float32(edit.strength * MAPPER_STEP)
        return self.affine.offset(step * self.mappers[edit.direction].offset(w_plus))


def resolve(domain: Domain, edits: Sequence[Edit]) -> list[Edit]:
    """Return the edits with each direction's name as the domain writes it.

    Raises:
        UnknownDirection: the domain lacks a direction.
        InvalidStrength: a strength is outside of the direction's range.
    """
    return [
        domain.direction(edit.direction).edit(edit.strength) if edit.direction else edit
        for edit in edits
    ]


def load_directions(folder: Path, domain: Domain) -> NamedDirections:
    """Load the directions that `domain` lists from its folder.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file does not fit the domain.
    """
    offsets: dict[str, FloatArray] = {}
    mappers: dict[str, Mapper] = {}
    for direction in domain.directions:
        arrays = _read_arrays(folder / FOLDER / f"{direction.name}.npz")
        if direction.follows_face:
            mappers[direction.name] = parse_mapper(arrays)
        else:
            offset = arrays["offset"]
            if offset.shape != (domain.style_size,):
                raise ValueError(
                    f"the direction {direction.name} has {offset.shape} channels, the generator "
                    f"{domain.style_size}: add it again with `styleclip-export directions add`"
                )
            offsets[direction.name] = offset
    affine = load_affine(folder, domain) if mappers else None
    return NamedDirections(offsets, mappers, affine)


def load_affine(folder: Path, domain: Domain) -> Affine:
    """Load a domain's `affine.npz`.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it does not fit the domain.
    """
    weight = _read_arrays(folder / AFFINE_FILE)["weight"]
    if weight.shape != (domain.style_size, domain.w_dim):
        raise ValueError(f"{AFFINE_FILE} has the shape {weight.shape}: add the mappers again")
    return Affine(weight, domain.style_channels)


def parse_mapper(arrays: Mapping[str, FloatArray]) -> Mapper:
    """Return the mapper of a file's arrays, named GROUP.LAYER.weight and GROUP.LAYER.bias."""
    names = {key.split(".")[0] for key in arrays}
    return Mapper(
        {
            name: [
                (arrays[f"{name}.{layer}.weight"], arrays[f"{name}.{layer}.bias"])
                for layer in range(MAPPER_LAYERS)
            ]
            for name in sorted(names)
        }
    )


def _read_arrays(path: Path) -> dict[str, FloatArray]:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: run `styleclip-export directions add`, or remove it from "
            "domain.json"
        )
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name].astype(np.float32) for name in file.files}
