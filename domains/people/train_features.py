"""Train people's inverter and feature editor, on augmented crops."""

from __future__ import annotations

import torch
from torch import Tensor

from domains.people.crops import load_crops
from domains.people.models import load_generator, load_perceptor
from domains.people.presets import STRENGTH, THRESHOLD
from domains.people.reconstruction import pixel_weights, reconstruction_loss
from domains.training.augmentations import augment_as_uploads
from domains.training.checkpoints import require_weights
from domains.training.edit_offsets import load_offsets
from domains.training.feature_editor import FeatureData, train_editor, train_inverter
from domains.training.networks import build_encoder
from domains.training.setup import Setup

HELD_OUT = 16


def run_inverter(setup: Setup) -> None:
    """Run the stage `inverter`."""
    train_inverter(setup, load_data(setup))


def run_editor(setup: Setup) -> None:
    """Run the stage `features`."""
    train_editor(setup, load_data(setup))


def load_data(setup: Setup) -> FeatureData:
    """Load what the training needs; the classifier of the report takes no part in it."""
    generator = load_generator(setup)
    encoder, perceptor = build_encoder(generator.num_latents), load_perceptor(setup)
    require_weights(encoder, setup.out / "encoder.pt")
    crops, held_out = load_crops(setup)
    weights = pixel_weights(generator.resolution, setup.device)

    @torch.no_grad()
    def draw_photos(count: int) -> Tensor:
        return augment_as_uploads(crops.images(crops.draw(count)))

    def distance(images: Tensor, targets: Tensor) -> Tensor:
        return reconstruction_loss(images, targets, weights, perceptor, setup)

    threshold = 0.0 if setup.tiny else THRESHOLD  # of a dry run's CLIP, no relevance is high
    return FeatureData(
        generator,
        encoder,
        draw_photos,
        distance,
        load_offsets(setup, generator, STRENGTH, threshold),
        held_out=held_out.images(torch.arange(min(HELD_OUT, len(held_out)), device=setup.device)),
    )
