"""The judge of the quality report: a convolutional network that names a picture's attributes.

It is trained apart, on renders only, and nothing else is ever trained with it.
"""

from __future__ import annotations

import torch
from attributes import SIZES
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = (24, 48, 72, 96, 128, 160)


class Classifier(nn.Module):
    """Pictures (N, 3, 256, 256) in [-1, 1] → logits (N, NUM_VALUES), attribute by attribute."""

    def __init__(self) -> None:
        super().__init__()
        units: list[nn.Module] = []
        channels = 3
        for width in WIDTHS:
            units += [
                nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        self.body = nn.Sequential(*units)
        self.head = nn.Linear(channels * 16, sum(SIZES))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.head(self.body(pictures).flatten(1))


def loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum of the attributes' cross-entropies."""
    parts = logits.float().split(SIZES, 1)
    return torch.stack([F.cross_entropy(x, labels[:, a]) for a, x in enumerate(parts)]).sum()


def predict(logits: Tensor) -> Tensor:
    """Logits → labels (N, attributes)."""
    return torch.stack([x.argmax(1) for x in logits.split(SIZES, 1)], 1)
