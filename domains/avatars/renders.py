"""Draws avatars: whole ones with dicebear and resvg, and fast ones from pre-rendered layers.

`render` asks dicebear for one avatar. `build_layers` renders every component alone, once, so that
`Composer` can stack any avatar on the training device by alpha compositing, without either
library.
"""

from __future__ import annotations

import copy
import io
import json
from functools import cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from attributes import ATTRIBUTES, HATS, NAMES, TOP
from PIL import Image
from torch import Tensor

SIZE = 256
# Drawing order of the style's canvas; each slot with the attributes that its look depends on.
SLOTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("skin", ("skin",)),
    ("clothes", ("clothes", "clothes_colour")),
    ("mouth", ("mouth",)),
    ("nose", ()),
    ("eyes", ("eyes",)),
    ("eyebrows", ("eyebrows",)),
    ("top", ("top", "hair_colour", "clothes_colour")),
    ("facialHair", ("facial_hair", "hair_colour")),
    ("accessories", ("accessories",)),
)
SIZE_OF = {a.name: len(a.values) for a in ATTRIBUTES}


@cache
def _definition() -> str:
    return files("dicebear_styles").joinpath("avataaars.json").read_text("utf-8")


def _options(labels: dict[str, int]) -> dict[str, object]:
    draw = {a.name: a.values[labels[a.name]].draw for a in ATTRIBUTES}
    options: dict[str, object] = {
        "seed": "avatar",
        "size": SIZE,
        "skinColor": [draw["skin"]],
        "hairColor": [draw["hair_colour"]],
        "facialHairColor": [draw["hair_colour"]],
        "hatColor": [draw["clothes_colour"]],
        "clothesColor": [draw["clothes_colour"]],
        "accessoriesColor": ["#262e33"],
        "topVariant": [draw["top"]],
        "topProbability": 100,
        "mouthVariant": [draw["mouth"]],
        "eyesVariant": [draw["eyes"]],
        "eyebrowsVariant": [draw["eyebrows"]],
        "clothesVariant": [draw["clothes"]],
        "accessoriesProbability": 100 if draw["accessories"] else 0,
        "facialHairProbability": 100 if draw["facial_hair"] else 0,
    }
    if draw["accessories"]:
        options["accessoriesVariant"] = [draw["accessories"]]
    if draw["facial_hair"]:
        options["facialHairVariant"] = [draw["facial_hair"]]
    return options


def _draw(definition: dict, labels: dict[str, int]) -> Image.Image:
    import resvg_py
    from dicebear import Avatar

    svg = Avatar(definition, _options(labels)).to_string()
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")


def render(labels: np.ndarray) -> Image.Image:
    """The whole avatar of `labels` (one value index an attribute) on white, RGB, SIZE x SIZE."""
    picture = _draw(json.loads(_definition()), dict(zip(NAMES, map(int, labels), strict=True)))
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")


def _only(slot: str) -> dict:
    """The style's definition with nothing but `slot` on the canvas."""
    definition = copy.deepcopy(json.loads(_definition()))
    elements = definition["canvas"]["elements"]
    if slot == "skin":  # the body's outline and its shadow are plain paths
        kept = [e for e in elements if e["type"] != "component"]
    else:
        kept = [e for e in elements if e["type"] == "component" and e["name"] == slot]
    definition["canvas"]["elements"] = kept
    return definition


def build_layers(path: Path) -> None:
    """Renders every layer and writes `path` (npz): `layers` (n, SIZE, SIZE, 4) uint8 straight
    alpha, and for each slot `index_<slot>`, an integer table from its attributes to a layer."""
    found: dict[bytes, int] = {}
    layers: list[np.ndarray] = []
    tables: dict[str, np.ndarray] = {}
    for slot, names in SLOTS:
        definition = _only(slot)
        shape = tuple(SIZE_OF[n] for n in names)
        table = np.zeros(shape, np.int64)
        for position in np.ndindex(*shape):
            labels = dict.fromkeys(NAMES, 0) | dict(zip(names, position, strict=True))
            if slot == "top":  # spare the renders that look alike
                hat = TOP.values[labels["top"]].name in HATS
                if not hat and labels["clothes_colour"]:
                    table[position] = table[(*position[:2], 0)]
                    continue
            picture = np.asarray(_draw(definition, labels))
            key = picture.tobytes()
            if key not in found:
                found[key] = len(layers)
                layers.append(picture)
            table[position] = found[key]
        tables[f"index_{slot}"] = table
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, layers=np.stack(layers), **tables)
    temporary.rename(path)


class Composer:
    """Stacks avatars on a device from the file of `build_layers`."""

    def __init__(self, path: Path, device: str | torch.device, size: int = SIZE) -> None:
        with np.load(path) as data:
            layers = torch.from_numpy(data["layers"]).to(device).permute(0, 3, 1, 2).float() / 255
            self.tables = [
                torch.from_numpy(data[f"index_{slot}"]).to(device).flatten() for slot, _ in SLOTS
            ]
        layers[:, :3] *= layers[:, 3:]  # premultiplied: what resampling and blending want
        if size != SIZE:
            layers = torch.nn.functional.interpolate(layers, size=(size, size), mode="area")
        self.layers = layers.half() if str(device).startswith("cuda") else layers
        self.columns = [[NAMES.index(n) for n in names] for _, names in SLOTS]

    def __call__(self, labels: Tensor) -> Tensor:
        """labels (N, attributes) int64 → pictures (N, 3, size, size) in [-1, 1], on white."""
        picture = torch.ones(1, device=self.layers.device, dtype=self.layers.dtype)
        for table, columns in zip(self.tables, self.columns, strict=True):
            position = torch.zeros_like(labels[:, 0])
            for c in columns:
                position = position * len(ATTRIBUTES[c].values) + labels[:, c]
            layer = self.layers[table[position]]
            picture = layer[:, :3] + picture * (1 - layer[:, 3:])
        return picture.float() * 2 - 1


def sample_labels(n: int, generator: torch.Generator, device: str | torch.device = "cpu") -> Tensor:
    """Labels (n, attributes) int64, each attribute drawn from its values' weights."""
    columns = []
    for a in ATTRIBUTES:
        weights = torch.tensor([v.weight for v in a.values])
        columns.append(torch.multinomial(weights, n, replacement=True, generator=generator))
    return torch.stack(columns, 1).to(device)
