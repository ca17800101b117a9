"""A convolutional network that recognizes attributes, for quality reports and losses."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.training.attributes import AttributeTable

WIDTHS = (24, 48, 72, 96, 128, 160)


class Classifier(nn.Module):
    """Images (N, 3, 256, 256), RGB in [-1, 1], to logits (N, num_values), by attribute."""

    def __init__(self, table: AttributeTable, resolution: int = 256) -> None:
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
        self.head = nn.Linear(channels * (resolution // 64) ** 2, table.num_values)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images).flatten(1))

    def features(self, images: Tensor) -> list[Tensor]:
        """Return the features after each level, (N, C, h, w), of unit variance per channel."""
        levels, x = [], images
        for index, layer in enumerate(self.body):
            x = layer(x)
            if index % 6 == 4:  # normalized, before the activation
                levels.append(x.float())
        return levels


def classification_loss(logits: Tensor, labels: Tensor, table: AttributeTable) -> Tensor:
    """Sum the attributes' cross-entropies, each the mean over the labels that are not negative."""
    losses = []
    for a, scores in enumerate(logits.float().split(table.sizes, 1)):
        known = (labels[:, a] >= 0).sum().clamp(min=1)
        loss = F.cross_entropy(scores, labels[:, a], ignore_index=-1, reduction="sum")
        losses.append(loss / known)
    return torch.stack(losses).sum()
