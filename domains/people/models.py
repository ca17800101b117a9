"""The domain's networks in their sizes, and where training keeps them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from domains.people.attributes import TABLE
from domains.people.codes import CODES, SceneEncoder
from domains.training import networks
from domains.training.checkpoints import load_weights, require_weights
from domains.training.classifier import Classifier
from domains.training.networks import SparseAffine
from domains.training.setup import Setup
from styleclip_networks.stylegan2 import Generator, feature_channels

RESOLUTION, TINY_RESOLUTION = 256, 128  # features of 64 px are replaced
COLORS = ("skin", "hair_color", "eye_color", "beard", "freckles", "lipstick")
IDENTITY_WIDTH = 128


def channels_of(setup: Setup) -> dict[int, int]:
    """Return the generator's channels by resolution."""
    if setup.tiny:
        return feature_channels(TINY_RESOLUTION, channel_base=1024, channel_max=128)
    return feature_channels(RESOLUTION, channel_base=8192, channel_max=256)


def build_generator(channels: dict[int, int]) -> Generator:
    """Build an untrained generator with sparse affine layers."""
    generator = networks.build_generator(channels)
    sparse_affine(generator).initialize(generator)
    return generator


def sparse_affine(generator: Generator) -> SparseAffine:
    """Give wide layers a channel for each value, narrower ones for what is seen in colors.

    The other channels, at least a quarter of a layer, depend on the scene vector.
    """
    every = list(range(TABLE.num_values))
    colors = [
        TABLE.offsets[TABLE.names.index(name)] + value
        for name in COLORS
        for value in range(len(TABLE[name].values))
    ]
    values = {}
    for i, layer in enumerate(generator.layers):
        fitting = [some for some in (every, colors) if len(some) <= 0.75 * layer.channels]
        if fitting and not layer.to_rgb:
            values[i] = fitting[0]
    return SparseAffine(generator, CODES, values, free=True)


def load_generator(setup: Setup) -> Generator:
    """Build the generator and load the stages that have run: `mapping.pt`, `generator.pt`."""
    generator = build_generator(channels_of(setup))
    load_weights(generator.style, setup.out / "mapping.pt")
    load_weights(generator, setup.out / "generator.pt", exclude="style.")
    return generator


def load_scene_encoder(out: Path, size: int) -> SceneEncoder:
    """Load the scene encoder that was trained with the generator."""
    encoder = SceneEncoder(size)
    require_weights(encoder, out / "scene.pt")
    return encoder


class Perceptor(Classifier):
    """A classifier of crops that also embeds who is shown; for losses only."""

    def __init__(self, resolution: int = RESOLUTION) -> None:
        super().__init__(TABLE, resolution)
        self.identity = nn.Linear(self.head.in_features, IDENTITY_WIDTH)

    def embed(self, images: Tensor) -> Tensor:
        """Return unit embeddings (N, IDENTITY_WIDTH) of identities."""
        return F.normalize(self.identity(self.body(images).flatten(1)).float(), dim=1)

    def perceptual_loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean distance of features, and that of the identities (1 - cosine)."""
        results, wanted = self.features(images), self.features(targets)
        pairs = zip(results, wanted, strict=True)
        distance = torch.stack([F.l1_loss(x, y) for x, y in pairs]).mean()
        identities = [
            F.normalize(self.identity(torch.relu(x[-1]).flatten(1)).float(), dim=1)
            for x in (results, wanted)
        ]
        return distance, 1 - (identities[0] * identities[1]).sum(1).mean()


def load_perceptor(setup: Setup) -> Perceptor:
    """Load the trained perceptor, frozen."""
    perceptor = Perceptor()
    require_weights(perceptor, setup.out / "perceptor.pt")
    return perceptor.to(setup.device).float().eval().requires_grad_(False)
