"""Latents of crops, and of combinations of them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from domains.people.attributes import TABLE
from domains.people.codes import CODES, SceneEncoder, add_scene
from domains.people.crops import SCENE_ATTRIBUTES, Crops, complete
from domains.people.models import load_scene_encoder
from domains.training.setup import Setup


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
        device = self.crops.labels.device
        self.basis = CODES.basis().to(device)
        of_scenes = [name in SCENE_ATTRIBUTES for name in TABLE.names]
        self.of_scenes = torch.tensor(of_scenes, device=device)

    def encode(self, index: Tensor) -> Tensor:
        """Return W+ (n, L, W_DIM) of crops with the indices (n,)."""
        return self.combine(index, index)

    def combine_labels(self, index: Tensor, scene_index: Tensor) -> Tensor:
        """Return labels (n, attributes) of combinations, -1 where they are not visible."""
        labels, scenes = self.crops.labels[index], self.crops.labels[scene_index]
        return torch.where(self.of_scenes, scenes, labels)

    def combine(self, index: Tensor, scene_index: Tensor, noise: float = 0.0) -> Tensor:
        """Return W+ (n, L, W_DIM) of the labels of some crops and the scenes of others.

        Unlike the mapping network's latents, none lies between two labels.

        Args:
            noise: 0 to 1; perturbs half of the labels as edits do (`LatentCodes.perturb`).
        """
        labels = complete(self.combine_labels(index, scene_index))
        p = TABLE.one_hot(labels)[:, None].repeat(1, self.num_latents, 1)
        if noise:
            half = len(index) // 2
            p[half:], _, _ = CODES.perturb(labels[half:], self.num_latents, noise)
        return add_scene(p @ self.basis, self.scene_encoder(self.crops.scenes[scene_index]))


def load_latents(setup: Setup, crops: Crops, num_latents: int) -> CropLatents:
    """Return the latents of crops that the generator was trained with; they are frozen."""
    scene_encoder = load_scene_encoder(setup.out, crops.scenes.shape[1]).to(setup.device).eval()
    return CropLatents(crops, scene_encoder.requires_grad_(False), num_latents)


class CombinedMapping(nn.Module):
    """Maps z (N, W_DIM) ~ N(0, 1) to latents w (N, W_DIM) of combined crops.

    In place of the mapping network, whose latents lie between labels.

    Args:
        latents: with one latent for each crop.
    """

    def __init__(self, latents: CropLatents) -> None:
        super().__init__()
        self.latents = latents

    def forward(self, z: Tensor) -> Tensor:
        """Take the labels of one crop by z's first coordinate, the scene by the second."""
        shares = torch.special.ndtr(z[:, :2]).clamp(max=1 - 1e-6)
        index, scene_index = (shares * len(self.latents.crops)).long().unbind(1)
        return self.latents.combine(index, scene_index)[:, 0]
