"""Renders of avatars: complete ones by dicebear and resvg, fast ones from pre-rendered layers.

`render` draws one avatar. `build_layers` renders every component once, so that `Composer` can
compose any batch of avatars on the training device by alpha compositing, without either library.
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
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from domains.avatars.attributes import ATTRIBUTES, NAMES, SIZES

RESOLUTION = 256
LAYERS_FILE = "layers.npz"  # of `build_layers`, in the folder of the training data
# Drawing order of the style's canvas: each slot with the attributes it depends on.
SLOTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("skin", ("skin",)),
    ("clothes", ("clothes", "clothes_color")),
    ("mouth", ("mouth",)),
    ("nose", ()),
    ("eyes", ("eyes",)),
    ("eyebrows", ("eyebrows",)),
    ("top", ("top", "hair_color", "clothes_color")),
    ("facialHair", ("facial_hair", "hair_color")),
    ("accessories", ("accessories",)),
)
HATS = ("hat", "winter hat", "turban", "hijab")  # tops in the color of the clothes


@cache
def _read_style() -> str:
    return files("dicebear_styles").joinpath("avataaars.json").read_text("utf-8")


def _dicebear_options(labels: dict[str, int]) -> dict[str, object]:
    variants = {a.name: a.values[labels[a.name]].variant for a in ATTRIBUTES}
    options: dict[str, object] = {
        "seed": "avatar",
        "size": RESOLUTION,
        "skinColor": [variants["skin"]],
        "hairColor": [variants["hair_color"]],
        "facialHairColor": [variants["hair_color"]],
        "hatColor": [variants["clothes_color"]],
        "clothesColor": [variants["clothes_color"]],
        "accessoriesColor": ["#262e33"],
        "topVariant": [variants["top"]],
        "topProbability": 100,
        "mouthVariant": [variants["mouth"]],
        "eyesVariant": [variants["eyes"]],
        "eyebrowsVariant": [variants["eyebrows"]],
        "clothesVariant": [variants["clothes"]],
        "accessoriesProbability": 100 if variants["accessories"] else 0,
        "facialHairProbability": 100 if variants["facial_hair"] else 0,
    }
    if variants["accessories"]:
        options["accessoriesVariant"] = [variants["accessories"]]
    if variants["facial_hair"]:
        options["facialHairVariant"] = [variants["facial_hair"]]
    return options


def _render_svg(style: dict, labels: dict[str, int]) -> Image.Image:
    import resvg_py
    from dicebear import Avatar

    svg = Avatar(style, _dicebear_options(labels)).to_string()
    return Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")


def render(labels: np.ndarray) -> Image.Image:
    """Render the avatar of `labels` (a value index for each attribute): RGB 256 x 256, on white."""
    image = _render_svg(json.loads(_read_style()), dict(zip(NAMES, map(int, labels), strict=True)))
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image)
    return white.convert("RGB")


def _isolate_slot(slot: str) -> dict:
    """Return the style with only `slot` on its canvas."""
    style = copy.deepcopy(json.loads(_read_style()))
    elements = style["canvas"]["elements"]
    if slot == "skin":  # the body's outline and its shadow are plain paths
        elements = [e for e in elements if e["type"] != "component"]
    else:
        elements = [e for e in elements if e["type"] == "component" and e["name"] == slot]
    style["canvas"]["elements"] = elements
    return style


def build_layers(path: Path) -> None:
    """Render every layer and write them as an npz file.

    It has `layers`, uint8 (n, 256, 256, 4) in RGBA with straight alpha, and for each slot
    `index_<slot>`, an integer table from the values of its attributes to a layer.
    """
    layer_of: dict[bytes, int] = {}  # equal renders share a layer
    layers: list[np.ndarray] = []
    tables: dict[str, np.ndarray] = {}
    for slot, names in SLOTS:
        style = _isolate_slot(slot)
        shape = tuple(SIZES[NAMES.index(name)] for name in names)
        table = np.zeros(shape, np.int64)
        for position in np.ndindex(*shape):
            labels = dict.fromkeys(NAMES, 0) | dict(zip(names, position, strict=True))
            if slot == "top" and labels["clothes_color"] and not _is_hat(labels["top"]):
                table[position] = table[(*position[:2], 0)]  # hair ignores the clothes' color
                continue
            image = np.asarray(_render_svg(style, labels))
            key = image.tobytes()
            if key not in layer_of:
                layer_of[key] = len(layers)
                layers.append(image)
            table[position] = layer_of[key]
        tables[f"index_{slot}"] = table
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, layers=np.stack(layers), **tables)
    temporary.rename(path)


def _is_hat(top: int) -> bool:
    return ATTRIBUTES[NAMES.index("top")].values[top].name in HATS


class Composer:
    """Composes batches of avatars on a device from the file of `build_layers`."""

    def __init__(
        self, path: Path, device: str | torch.device, resolution: int = RESOLUTION
    ) -> None:
        with np.load(path) as data:
            layers = torch.from_numpy(data["layers"]).to(device).permute(0, 3, 1, 2).float() / 255
            self.tables = [
                torch.from_numpy(data[f"index_{slot}"]).to(device).flatten() for slot, _ in SLOTS
            ]
        layers[:, :3] *= layers[:, 3:]  # premultiplied alpha, for resampling and compositing
        if resolution != RESOLUTION:
            layers = F.interpolate(layers, size=(resolution, resolution), mode="area")
        self.layers = layers.half() if str(device).startswith("cuda") else layers
        self.columns = [[NAMES.index(name) for name in names] for _, names in SLOTS]

    def __call__(self, labels: Tensor) -> Tensor:
        """Compose avatars on white.

        Args:
            labels: int64 (N, attributes).

        Returns:
            Images, float32 (N, 3, resolution, resolution), RGB in [-1, 1].
        """
        image = torch.ones(1, device=self.layers.device, dtype=self.layers.dtype)
        for table, columns in zip(self.tables, self.columns, strict=True):
            position = torch.zeros_like(labels[:, 0])
            for column in columns:
                position = position * SIZES[column] + labels[:, column]
            layer = self.layers[table[position]]
            image = layer[:, :3] + image * (1 - layer[:, 3:])
        return image.float() * 2 - 1


def sample_labels(n: int, generator: torch.Generator, device: str | torch.device = "cpu") -> Tensor:
    """Draw labels, int64 (n, attributes), by the prior of each attribute's values."""
    columns = []
    for attribute in ATTRIBUTES:
        weights = torch.tensor([value.weight for value in attribute.values])
        columns.append(torch.multinomial(weights, n, replacement=True, generator=generator))
    return torch.stack(columns, 1).to(device)
