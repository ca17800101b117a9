"""The sizes of each network, from the shapes of its state_dict."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from itertools import count, groupby
from typing import Any

from styleclip_networks.clip import HEAD_WIDTH

_BLOCK_WEIGHT = "transformer.resblocks.{}.ln_1.weight"

Shapes = Mapping[str, Sequence[int]]


def generator_sizes(shapes: Shapes) -> dict[str, Any]:
    """Return the arguments of `Generator` from the shapes of its state_dict.

    Raises:
        KeyError: a weight is missing.
    """
    channels = {4: shapes["conv1.conv.weight"][1]}
    for i in range(0, count_modules(shapes, "convs.{}.conv.weight"), 2):
        channels[2 * max(channels)] = shapes[f"convs.{i}.conv.weight"][1]
    return {
        "resolution": max(channels),
        "channels": channels,
        "w_dim": shapes["conv1.conv.modulation.weight"][1],
        # Module 0 is the normalization of z, which has no weight.
        "mapping_layers": count_modules(shapes, "style.{}.weight", first=1),
    }


def encoder_sizes(shapes: Shapes) -> dict[str, Any]:
    """Return the arguments of an encoder from the shapes of its state_dict.

    Raises:
        KeyError: a weight is missing.
    """
    num_units = count_modules(shapes, "body.{}.res_layer.1.weight")
    units = [shapes[f"body.{i}.res_layer.1.weight"][0] for i in range(num_units)]
    stages = [(width, len(list(run))) for width, run in groupby(units)]
    w_dim, style_width = shapes["styles.0.linear.weight"]
    return {
        "num_latents": count_modules(shapes, "styles.{}.linear.weight"),
        "widths": tuple(width for width, _ in stages),
        "depths": tuple(depth for _, depth in stages),
        "style_width": style_width,
        "w_dim": w_dim,
    }


def inverter_sizes(shapes: Shapes) -> dict[str, Any]:
    """Return the arguments of StyleFeatureEditor's `Inverter` from the shapes of its state_dict.

    Raises:
        KeyError: a weight is missing.
    """
    units = "fs_backbone.block_{}.{}"
    num_latents = count_modules(shapes, "fs_backbone.styles.{}.weight")
    num_stages = count_modules(shapes, units.format("{}", 0) + ".bn1.weight", first=1)
    stages = range(1, num_stages + 1)
    return {
        "num_latents": num_latents,
        "widths": tuple(shapes[units.format(i, 0) + ".conv2.weight"][0] for i in stages),
        "depths": tuple(
            count_modules(shapes, units.format(i, "{}") + ".bn1.weight") for i in stages
        ),
        "feature_channels": shapes["fuser.conv.weight"][0],
        "fuser_units": count_modules(shapes, "fuser.body.{}.body.0.weight"),
        **({"w_dim": shapes["fs_backbone.styles.0.weight"][0]} if num_latents else {}),
    }


def feature_fuser_sizes(shapes: Shapes) -> dict[str, int]:
    """Return the arguments of `FeatureFuser` from the shapes of its state_dict.

    Raises:
        KeyError: a weight is missing.
    """
    return {
        "channels": shapes["conv.weight"][0],
        "units": count_modules(shapes, "body.{}.body.0.weight"),
    }


def clip_sizes(shapes: Shapes) -> dict[str, int]:
    """Return the arguments of `CLIP` from the shapes of an official ViT state_dict.

    Raises:
        KeyError: it is not of a ViT (a ResNet CLIP, or no CLIP at all).
    """
    width, _, patch, _ = shapes["visual.conv1.weight"]
    num_patches = shapes["visual.positional_embedding"][0] - 1
    return {
        "image_resolution": math.isqrt(num_patches) * patch,
        "vision_patch_size": patch,
        "vision_width": width,
        "vision_layers": count_modules(shapes, "visual." + _BLOCK_WEIGHT),
        "vision_heads": width // HEAD_WIDTH,
        **text_encoder_sizes(shapes),
    }


def text_encoder_sizes(shapes: Shapes) -> dict[str, int]:
    """Return the arguments of `CLIP` for the text encoder.

    Raises:
        KeyError: a weight is missing.
    """
    width, embed_dim = shapes["text_projection"]
    return {
        "embed_dim": embed_dim,
        "context_length": shapes["positional_embedding"][0],
        "vocab_size": shapes["token_embedding.weight"][0],
        "transformer_width": width,
        "transformer_layers": count_modules(shapes, _BLOCK_WEIGHT),
        "transformer_heads": width // HEAD_WIDTH,
    }


def count_modules(names: Container[str], weight: str, first: int = 0) -> int:
    """Count modules of consecutive numbers.

    Args:
        names: of a state_dict.
        weight: the name of a weight that each module has, with {} for the number.
        first: the first number.
    """
    return next(i for i in count(first) if weight.format(i) not in names) - first
