"""Train the avatars' inverter and feature editor, on augmented renders."""

from __future__ import annotations

import torch
from torch import Tensor

from domains.avatars.models import build_encoder, load_generator
from domains.avatars.presets import STRENGTH, THRESHOLD
from domains.avatars.renders import LAYERS_FILE, Composer, sample_labels
from domains.training.augmentations import augment_as_uploads
from domains.training.checkpoints import require_weights
from domains.training.edit_offsets import load_offsets
from domains.training.feature_editor import FeatureData, train_editor, train_inverter
from domains.training.perceptual import encoder_distance
from domains.training.regression import image_loss
from domains.training.setup import SEED, Setup

PERCEPTUAL = 0.5  # weight of the distance of features
HELD_OUT = 16


def run_inverter(setup: Setup) -> None:
    """Run the stage `inverter`."""
    train_inverter(setup, load_data(setup))


def run_editor(setup: Setup) -> None:
    """Run the stage `features`."""
    train_editor(setup, load_data(setup))


def load_data(setup: Setup) -> FeatureData:
    """Load what the training needs; the classifier of the report takes no part in it."""
    generator, encoder = load_generator(setup.out), build_encoder()
    require_weights(encoder, setup.out / "encoder.pt")
    composer = Composer(setup.data / LAYERS_FILE, setup.device)
    rng = torch.Generator().manual_seed(SEED + 3)
    weights = torch.ones(1, 1, generator.resolution, generator.resolution, device=setup.device)

    @torch.no_grad()
    def draw_photos(count: int) -> Tensor:
        return augment_as_uploads(composer(sample_labels(count, rng, setup.device)))

    def distance(images: Tensor, targets: Tensor) -> Tensor:
        with setup.autocast():
            features = encoder_distance(encoder, images, targets)
        return image_loss(images, targets, weights) + PERCEPTUAL * features

    test_labels = sample_labels(HELD_OUT, torch.Generator().manual_seed(321), setup.device)
    offsets = load_offsets(setup, generator, STRENGTH, [THRESHOLD])
    return FeatureData(
        generator, encoder, draw_photos, distance, offsets, held_out=composer(test_labels)
    )
