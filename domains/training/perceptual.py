"""A perceptual distance on the features of a domain's own encoder."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks.e4e import Encoder4Editing

STAGES = 3  # of four; the last is about the latent more than about the image


def encoder_features(encoder: Encoder4Editing, images: Tensor) -> list[Tensor]:
    """Return the outputs of e4e's first stages for images (N, 3, 256, 256), (N, C, h, w) each."""
    x = encoder.input_layer(images)
    ends, outputs = encoder.stage_ends[:STAGES], []
    for index, unit in enumerate(encoder.body[: ends[-1] + 1]):
        x = unit(x)
        if index in ends:
            outputs.append(x)
    return outputs


def encoder_distance(encoder: Encoder4Editing, images: Tensor, targets: Tensor) -> Tensor:
    """Compute the distance of e4e's features, each pixel's scaled to unit length (Zhang et al.
    2018, "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric")."""
    with torch.no_grad():
        expected = encoder_features(encoder, targets)
    distances = [
        (F.normalize(x.float(), dim=1) - F.normalize(y.float(), dim=1)).square().sum(1).mean()
        for x, y in zip(encoder_features(encoder, images), expected, strict=True)
    ]
    return torch.stack(distances).sum()
