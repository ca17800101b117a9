"""The classifier of the quality report: a convolutional network that recognizes attributes.

It is trained on renders only, and no other network is trained with it.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.avatars.attributes import SIZES

WIDTHS = (24, 48, 72, 96, 128, 160)


class Classifier(nn.Module):
    """Images (N, 3, 256, 256), RGB in [-1, 1], to logits (N, NUM_VALUES), by attribute."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for width in WIDTHS:
            layers += [
                nn.Conv2d(channels, width, 3, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
                nn.Conv2d(width, width, 3, padding=1, bias=False),
                nn.BatchNorm2d(width),
                nn.ReLU(),
            ]
            channels = width
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(channels * 16, sum(SIZES))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).flatten(1))


def classification_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Sum the attributes' cross-entropies."""
    groups = logits.float().split(SIZES, 1)
    return torch.stack([F.cross_entropy(x, labels[:, a]) for a, x in enumerate(groups)]).sum()


def predict(logits: Tensor) -> Tensor:
    """Convert logits (N, NUM_VALUES) to labels (N, attributes)."""
    return torch.stack([x.argmax(1) for x in logits.split(SIZES, 1)], 1)
