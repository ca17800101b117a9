"""StyleFeatureEditor cases: `sfe_<res>.npz` and `.json`, with a generator of `res` px.

The json has names and shapes of an official checkpoint of the feature editor (`keys`), seed and
rules of its weights, and those of a generator that is not the published one. Arrays `*_pool` and
`*_image64` are area means to the array's size, `*_crop` the middle.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from styleclip_contract.wire import FACE_SIZE
from styleclip_export.errors import VerificationError
from styleclip_export.verify import bounds
from styleclip_export.verify.folder import Arrays, Case, Folder
from styleclip_export.verify.generator import build_empty, shapes_of
from styleclip_export.verify.report import Comparison, Row, compare, compare_mappings
from styleclip_export.verify.weights import Override
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.sfe import FeatureFuser, Inverter, edit_features, feature_change
from styleclip_networks.sizes import feature_fuser_sizes, inverter_sizes
from styleclip_networks.stylegan2 import Generator

FIELDS = ("keys", "fill_seed", "rules", "generator")
_EDITOR, _INVERTER = "encoder.", "inverter."  # of the names in the checkpoint

_Network = TypeVar("_Network", bound=nn.Module)
Shapes = Mapping[str, Sequence[int]]


def cases(folder: Folder) -> Iterator[Case]:
    """Yield the cases of the golden folder."""
    for name in folder.stems("sfe_*.npz", "sfe_*.json"):
        files = (f"{name}.json", f"{name}.npz")
        yield Case(name, files, partial(_check, folder, name), needs_weights=True)


@dataclass(frozen=True)
class _Weights:
    """The weights of a case: the folder's rule with the case's seed and overrides."""

    folder: Folder
    seed: int
    overrides: tuple[Override, ...]

    def load(self, network: _Network, prefix: str) -> _Network:
        """Fill a network, whose names in the official checkpoint have the prefix."""
        shapes = {prefix + name: shape for name, shape in shapes_of(network).items()}
        state = self.folder.state_dict(shapes, self.overrides, self.seed)
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        network.load_state_dict(state, strict=True, assign=True)
        return network.eval()

    def average_latent(self, num_latents: int, w_dim: int) -> Tensor:
        shapes = {"latent_avg": [num_latents, w_dim]}
        return self.folder.state_dict(shapes, self.overrides, self.seed)["latent_avg"]


def _check(folder: Folder, name: str) -> Iterator[Row]:
    described = folder.json(f"{name}.json", known=FIELDS)
    weights = _weights(folder, described)
    official = folder.shapes(described["keys"], f"{name}.json")
    data = folder.arrays(f"{name}.npz")
    inverter, editor = _build_empty(official)
    generator = _build_generator(name, described, folder)
    ours = {_INVERTER + k: v for k, v in shapes_of(inverter).items()}
    ours |= {_EDITOR + k: v for k, v in shapes_of(editor).items()}
    yield compare_mappings("names and shapes", ours, official)

    faces = torch.from_numpy(data["x_uint8"].transpose(0, 3, 1, 2).copy()).float()
    faces = (faces / 255 - 0.5) / 0.5
    average = weights.average_latent(generator.num_latents, generator.w_dim)
    weights.load(generator, "decoder.")
    offset, predicted = weights.load(inverter, _INVERTER).fs_backbone(faces)
    w_plus, fused = inverter.fuse(offset + average, predicted, generator)
    del inverter
    yield from _compare_inversion(generator, w_plus, predicted, fused, data)
    weights.load(editor, _EDITOR)
    yield from _check_editor(editor, generator, w_plus, fused, data)
    if faces.shape[-1] == FACE_SIZE:  # which e4e needs
        with torch.device("meta"):
            e4e = Encoder4Editing(generator.num_latents)
        codes = weights.load(e4e, "encoder.")(faces) + average
        yield compare("codes of e4e", [("w_e4e", codes, data["w_e4e"])], bounds.E4E)


def _weights(folder: Folder, described: Mapping[str, Any]) -> _Weights:
    seed, rules = described.get("fill_seed"), described.get("rules")
    if not isinstance(seed, int) or not isinstance(rules, list):
        raise VerificationError("the case has no integer 'fill_seed' or no list 'rules'")
    return _Weights(folder, seed, tuple(Override(*rule) for rule in rules))


def _build_empty(shapes: Shapes) -> tuple[Inverter, FeatureFuser]:
    """Build inverter and feature editor of the sizes of an official state_dict."""
    inverter, editor = (
        {k.removeprefix(prefix): v for k, v in shapes.items() if k.startswith(prefix)}
        for prefix in (_INVERTER, _EDITOR)
    )
    with torch.device("meta"):
        return Inverter(**inverter_sizes(inverter)), FeatureFuser(**feature_fuser_sizes(editor))


def _build_generator(name: str, described: Mapping[str, Any], folder: Folder) -> Generator:
    """Build the generator of the case; by default it has the published widths."""
    if "generator" in described:
        return build_empty(folder.shapes(described["generator"], f"{name}.json"))
    with torch.device("meta"):
        return Generator(int(name.removeprefix("sfe_"))).eval()


def _compare_inversion(
    generator: Generator, w_plus: Tensor, predicted: Tensor, fused: Tensor, data: Arrays
) -> Iterator[Row]:
    """Compare what the inverter computes, and the image of its features."""
    latents = _relative([("w_recon", w_plus, data["w_recon"])])
    yield compare("latent", latents, bounds.FEATURES)
    yield _compare_features("predicted", predicted, data, crop=True)
    styles = generator.affine(w_plus)
    yield _compare_features("w_feat", generator.features(styles, predicted.shape[-1]), data)
    yield _compare_features("fused", fused, data, crop=True)
    yield _compare_images("inverter", generator, styles, fused, data)


def _check_editor(
    editor: FeatureFuser, generator: Generator, w_plus: Tensor, fused: Tensor, data: Arrays
) -> Iterator[Row]:
    styles = generator.affine(w_plus)
    inversion = editor(fused, torch.zeros_like(fused))
    yield _compare_features("inversion", inversion, data)
    yield _compare_images("inversion", generator, styles, inversion, data)

    e4e_styles = generator.affine(torch.from_numpy(data["w_e4e"]))
    e4e_edited, edited = (_edit(generator, s, data["edits"]) for s in (e4e_styles, styles))
    delta = feature_change(generator, e4e_styles, e4e_edited, fused.shape[-1])
    yield _compare_features("delta", delta, data)
    features = edit_features(editor, generator, fused, e4e_styles, e4e_edited)
    yield _compare_features("edited", features, data, crop=True)
    yield _compare_images("edit", generator, edited, features, data)


def _edit(generator: Generator, styles: Sequence[Tensor], edits: np.ndarray) -> list[Tensor]:
    """Add offsets in StyleSpace; `edits` counts the convolutions without toRGB."""
    convolutions = [i for i, layer in enumerate(generator.layers) if not layer.to_rgb]
    edited = [style.clone() for style in styles]
    for convolution, channel, offset in edits:
        edited[convolutions[int(convolution)]][:, int(channel)] += float(offset)
    return edited


def _compare_features(name: str, features: Tensor, data: Arrays, crop: bool = False) -> Row:
    pool = data[f"{name}_pool"]
    pairs = [(f"{name}_pool", F.interpolate(features, size=pool.shape[2:], mode="area"), pool)]
    if crop:
        expected = data[f"{name}_crop"]
        middle = _middle(features, expected.shape[-1])[:, : expected.shape[1]]
        pairs.append((f"{name}_crop", middle, expected))
    return compare(f"features, {name}", _relative(pairs), bounds.FEATURES)


def _compare_images(
    name: str, generator: Generator, styles: Sequence[Tensor], features: Tensor, data: Arrays
) -> Row:
    """Compare the images of the features, which are synthesized one by one to bound the memory."""
    rows = zip(features.split(1), *(style.split(1) for style in styles), strict=True)
    images = torch.cat([generator.synthesis(each, features=first) for first, *each in rows])
    average, crop = data[f"{name}_image64"], data[f"{name}_crop"]
    pairs = [
        ("image64", F.interpolate(images, size=average.shape[2:], mode="area"), average),
        ("crop", _middle(images, crop.shape[-1]), crop),
        ("mean", images.mean((2, 3)), data[f"{name}_mean"]),
        ("std", images.std((2, 3), correction=0), data[f"{name}_std"]),
    ]
    return compare(f"image, {name}", _relative(pairs), bounds.FEATURES)


def _middle(x: Tensor, side: int) -> Tensor:
    start = (x.shape[-1] - side) // 2
    return x[:, :, start : start + side, start : start + side]


def _relative(pairs: Sequence[Comparison]) -> list[Comparison]:
    """Divide by the largest official magnitude: values of the filled networks reach 20."""
    scaled = []
    for name, ours, official in pairs:
        largest = float(np.abs(official).max())
        scaled.append((name, np.asarray(ours) / largest, np.asarray(official) / largest))
    return scaled
