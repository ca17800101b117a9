"""The case of edits by name, `named_edits.npz`: latent mappers, InterFaceGAN, GANSpace."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_export.directions.store import mapper_arrays
from styleclip_export.verify import bounds
from styleclip_export.verify.folder import Case, Folder
from styleclip_export.verify.generator import build_empty
from styleclip_export.verify.report import Comparison, Row, compare
from styleclip_networks.constants import MAPPER_LAYERS
from styleclip_networks.mapper import LatentMapper
from styleclip_networks.stylegan2 import Generator
from styleclip_server.pipeline.named_directions import MAPPER_STEP, Affine, FloatArray, parse_mapper

_FILE, _KEYS = "named_edits.npz", "keys_stylegan2_256.json"
_OFFICIAL_GROUPS = {"course": "coarse", "medium": "medium", "fine": "fine"}
# GANSpace's edit in encoder4editing sets the coordinate along a component to this.
_COORDINATE = 20.0
# Array with the direction → the strength that the official code was given.
_STRENGTHS = {"1": 3.0, "14": -8.0}


def cases(folder: Folder) -> Iterator[Case]:
    """Yield the case of the golden folder."""
    if folder.has(_FILE):
        yield Case("named_edits", (_FILE,), partial(_check, folder), needs_weights=True)


def _check(folder: Folder) -> Iterator[Row]:
    data = folder.arrays(_FILE)
    shapes = folder.shapes(folder.json(_KEYS), _KEYS)
    generator = build_empty(shapes)
    generator.load_state_dict(folder.state_dict(shapes), strict=True, assign=True)
    w_plus, w_plus_18 = data["w_plus"], data["w_plus_18"]

    mapper = _filled_mapper(folder, tuple(_OFFICIAL_GROUPS))
    without_fine = _filled_mapper(folder, ("course", "medium"))
    networks = (("mapper_all", mapper, w_plus), ("mapper_no_fine_18", without_fine, w_plus_18))
    rows: list[Comparison] = [
        (name, network(torch.from_numpy(latents)), data[name])
        for name, network, latents in networks
    ]
    yield compare("latent mappers", rows, bounds.MAPPER)
    rows = [
        (name, np.stack([_served(network, each) for each in latents]), data[name])
        for name, network, latents in networks
    ]
    yield compare("latent mappers, as served", rows, bounds.MAPPER)

    affine = affine_of(generator)
    offsets = [affine.offset(np.float32(MAPPER_STEP) * _served(mapper, each)) for each in w_plus]
    image = _render(generator, w_plus, np.stack(offsets))
    expected = data["mapper_all_image64"]
    yield compare("image, mapped", [("mapper_all_image64", image, expected)], bounds.IMAGE)

    rows = []
    for name, strength in _STRENGTHS.items():
        direction = np.broadcast_to(data[f"direction_{name}"], w_plus[0].shape)
        offset = np.float32(strength) * affine.offset(direction)
        image = _render(generator, w_plus[:1], offset[np.newaxis])
        rows.append((f"direction_{name}", image, data[f"interfacegan_{name}_image64"]))
    yield compare("image, InterFaceGAN", rows, bounds.IMAGE)

    component = data["ganspace_component"].reshape(-1)
    unit = component * data["ganspace_std"]  # our direction
    present = (w_plus[:, 0] - data["ganspace_mean"]) @ component / data["ganspace_std"]
    strengths = _COORDINATE - present
    edits = strengths[:, np.newaxis] * unit
    yield compare("GANSpace in W+", [("edit", edits, data["ganspace_edit"])], bounds.STYLES)
    direction = np.zeros_like(w_plus[0])
    direction[data["ganspace_rows"]] = unit
    offset = strengths[0] * affine.offset(direction)
    image = _render(generator, w_plus[:1], offset[np.newaxis])
    yield compare("image, GANSpace", [("edit", image, data["ganspace_image64"])], bounds.IMAGE)


def affine_of(generator: Generator) -> Affine:
    """Return the linear part of a generator's affine layers."""
    layers = [generator.modulation(i) for i in range(len(generator.layers))]
    weight = torch.cat([layer.weight * layer.scale for layer in layers])
    return Affine(weight.detach().numpy(), generator.style_channels)


def _filled_mapper(folder: Folder, official_groups: Sequence[str]) -> LatentMapper:
    """Build a mapper filled by the rule of the mapping network, under names of its own."""
    mapper = LatentMapper([_OFFICIAL_GROUPS[group] for group in official_groups])
    state: dict[str, Tensor] = {}
    for group in official_groups:
        for layer in range(1, MAPPER_LAYERS + 1):
            names = {f"{group}.style.{layer}.weight": [512, 512]}
            names |= {f"{group}.style.{layer}.bias": [512]}
            for name, value in folder.state_dict(names).items():
                state[name.replace(f"{group}.style", _OFFICIAL_GROUPS[group])] = value
    mapper.load_state_dict(state)
    return mapper.eval()


def _served(mapper: LatentMapper, w_plus: FloatArray) -> FloatArray:
    return parse_mapper(mapper_arrays(mapper)).offset(w_plus)


def _render(generator: Generator, w_plus: FloatArray, offsets: FloatArray) -> Tensor:
    """Synthesize latents with offsets in StyleSpace, averaged to 64 px."""
    deltas = generator.split_styles(torch.from_numpy(offsets))
    affine = generator.affine(torch.from_numpy(w_plus))
    styles = [style + delta for style, delta in zip(affine, deltas, strict=True)]
    return F.interpolate(generator.synthesis(styles), size=(64, 64), mode="area")
