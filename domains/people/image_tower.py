"""CLIP's image tower for the statistics: convolutional, with all pixels of a crop.

The text tower alone is served, so the image tower may be any network that shares its space. This
one is the perceptor's body, which already tells attributes apart, and a projection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from domains.people.models import Perceptor
from domains.training.images import resize
from domains.training.networks import TEXT_TOWER
from styleclip_contract.wire import FACE_SIZE


class ImageTower(nn.Module):
    """Images (N, 3, r, r), RGB in [-1, 1], to features (N, D) of CLIP's joint space.

    Args:
        perceptor: whose body becomes the tower's, and is trained with it.
    """

    def __init__(self, perceptor: Perceptor) -> None:
        super().__init__()
        self.body = perceptor.body
        self.projection = nn.Linear(perceptor.head.in_features, TEXT_TOWER["embed_dim"], bias=False)

    def forward(self, images: Tensor) -> Tensor:
        images = resize(images, FACE_SIZE).clamp(-1, 1)
        images = images.contiguous(memory_format=torch.channels_last)
        return self.projection(self.body(images).flatten(1))
