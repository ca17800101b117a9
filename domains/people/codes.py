"""What a latent says of a head: its labels by amplitudes, everything else by a scene vector.

W's first dimensions belong to the labels (`LatentCodes`), the last FREE to a learned linear map of
the scene vector: features of the face, light, camera, and how colors differ from those that the
labels name. Nothing in the scene vector tells a label, so that edits of labels are not undone by
it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.people.attributes import TABLE
from domains.people.head import Color, Head, Lamp
from domains.people.materials import EYE_COLORS, HAIR_COLORS
from domains.people.person import ANCESTRIES, find_features
from domains.people.sampling import CLOTHES_COLORS
from domains.training.latent_codes import LatentCodes
from styleclip_contract.wire import W_DIM

CODES = LatentCodes(TABLE, block=4)
FREE = W_DIM - CODES.used
_GRAY: Color = (0.2, 0.2, 0.2)


def scene_vector(head: Head, known_targets: Iterable[str]) -> list[float]:
    """Return the numbers that describe a head besides its labels."""
    weights, labels, worn = head.targets, head.labels, head.wear
    values = [
        weights.get(feature.positive, 0.0) - weights.get(feature.negative, 0.0)
        for feature in find_features(frozenset(known_targets))
    ]
    values += [_sum(weights, f"macro/{ancestry}-") for ancestry in ANCESTRIES]
    values += [_sum(weights, "macro/universal-", f"-{build}weight") for build in ("max", "min")]
    values += [head.skin.tone - round(head.skin.tone), head.skin.redness, head.skin.recession]
    values += _color_change(head.hair.color, HAIR_COLORS.get(labels["hair_color"]))
    values += [head.hair.length, head.hair.part, float(head.hair.fringe), head.beard.length]
    values += _color_change(head.eyes.color, EYE_COLORS.get(labels["eye_color"]))
    values += [head.brows.height, *head.eyes.gaze, head.eyes.lash_length]
    values += _color_change(worn.frame_color, _GRAY if worn.glasses else None)
    values += _color_change(worn.headwear_color, _GRAY if worn.headwear else None)
    values += _color_change(worn.clothes_color, CLOTHES_COLORS[labels["clothes_color"]])
    values += _color_change(worn.second_color, None if worn.pattern == "plain" else _GRAY)
    values += _color_change(head.skin.lipstick_color, _GRAY if head.skin.lipstick else None)
    values += [math.sin(head.camera.yaw), math.sin(head.camera.pitch), 1 / head.camera.distance]
    values += _describe_lamp(head.lighting.lamps[0])
    back = head.lighting.lamps[1:]
    values += _describe_lamp(back[0]) if back else [0.0] * 7
    for side in ("top", "bottom", "left", "right"):
        values += head.lighting.ambient[side]
    for color in head.background.colors[:2]:
        values += [math.log(max(c, 1e-3)) for c in color]
    return [*values, math.log(head.film.exposure), head.film.warmth]


def _sum(weights: dict[str, float], start: str, end: str = "") -> float:
    return sum(w for name, w in weights.items() if name.startswith(start) and name.endswith(end))


def _color_change(color: Sequence[float], usual: Color | None) -> list[float]:
    """Return by how much a color differs from the usual one; zeros where it is not seen."""
    if usual is None:
        return [0.0, 0.0, 0.0]
    return [math.log(max(c, 1e-3) / max(u, 1e-3)) for c, u in zip(color, usual, strict=True)]


def _describe_lamp(lamp: Lamp) -> list[float]:
    length = math.hypot(*lamp.direction)
    power = sum(lamp.color) / 3
    return [
        *(component / length for component in lamp.direction),
        *(c / power for c in lamp.color[::2]),
        power,
        lamp.size,
    ]


class SceneEncoder(nn.Module):
    """Maps scene vectors (N, d) to W's free dimensions (N, FREE), about unit variance at first.

    Args:
        size: d.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))
        self.linear = nn.Linear(size, FREE)
        nn.init.normal_(self.linear.weight, std=size**-0.5)
        nn.init.zeros_(self.linear.bias)

    def fit(self, scenes: Tensor) -> None:
        """Take mean and deviation from scene vectors (N, d)."""
        self.mean.copy_(scenes.mean(0))
        self.std.copy_(scenes.std(0).clamp(min=1e-3))

    def normalize(self, scenes: Tensor) -> Tensor:
        """Return scene vectors of mean 0 and deviation 1, without outliers."""
        return ((scenes - self.mean) / self.std).clamp(-4, 4)

    def forward(self, scenes: Tensor) -> Tensor:
        return self.linear(self.normalize(scenes))


def add_scene(labels: Tensor, scene: Tensor) -> Tensor:
    """Add the parts of W+ that labels (N, L, W_DIM) and scenes (N, FREE) determine."""
    return labels + F.pad(scene, (W_DIM - FREE, 0))[:, None]
