"""Latents of crops, and of combinations of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from domains.people.attributes import TABLE
from domains.people.codes import CODES, SceneEncoder, add_scene
from domains.people.crops import Crops


@dataclass(eq=False)
class CropLatents:
    """Computes W+ of crops.

    Attributes:
        num_latents: L.
    """

    crops: Crops
    scene_encoder: SceneEncoder
    num_latents: int

    def __post_init__(self) -> None:
        self.basis = CODES.basis().to(self.crops.labels.device)

    def encode(self, index: Tensor) -> Tensor:
        """Return W+ (n, L, W_DIM) of crops with the indices (n,)."""
        return self.combine(index, index)

    def combine(self, index: Tensor, scene_index: Tensor, noise: float = 0.0) -> Tensor:
        """Return W+ (n, L, W_DIM) of the labels of some crops and the scenes of others.

        Unlike the mapping network's latents, none lies between two labels.

        Args:
            noise: 0 to 1; perturbs half of the labels as edits do (`LatentCodes.perturb`).
        """
        labels = self.crops.complete_labels(index)
        p = TABLE.one_hot(labels)[:, None].repeat(1, self.num_latents, 1)
        if noise:
            half = len(index) // 2
            p[half:], _, _ = CODES.perturb(labels[half:], self.num_latents, noise)
        with torch.no_grad():
            scenes = self.scene_encoder(self.crops.scenes[scene_index])
        return add_scene(p @ self.basis, scenes)


class CombinedMapping(nn.Module):
    """Maps z (N, W_DIM) ~ N(0, 1) to latents w (N, W_DIM) of combined crops.

    It stands in for the mapping network where latents between two labels would do harm.
    """

    def __init__(self, crops: Crops, scene_encoder: SceneEncoder) -> None:
        super().__init__()
        self.latents = CropLatents(crops, scene_encoder, num_latents=1)

    def forward(self, z: Tensor) -> Tensor:
        shares = torch.special.ndtr(z[:, :2]).clamp(max=1 - 1e-6)
        index, scene_index = (shares * len(self.latents.crops)).long().unbind(1)
        return self.latents.combine(index, scene_index)[:, 0]
