"""Train people's inverter and feature editor, on augmented crops."""

from __future__ import annotations

import torch
from torch import Tensor

from domains.people.crops import load_crops
from domains.people.models import load_generator, load_perceptor
from domains.people.presets import PRESETS, STRENGTH, THRESHOLD
from domains.people.reconstruction import pixel_weights, reconstruction_loss
from domains.training.augmentations import augment_as_uploads
from domains.training.checkpoints import require_weights
from domains.training.edit_offsets import load_offsets
from domains.training.feature_editor import FeatureData, train_editor, train_inverter
from domains.training.networks import build_encoder
from domains.training.setup import Setup
from styleclip_networks.stylegan2 import Generator

HELD_OUT = 16
DRY_RUN_EDITS = 8
AUGMENTED = 0.4  # share of the crops; noise and blur are no detail to keep


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
    # Pasting shows errors at the border too, so the face counts less than in other stages.
    weights = (1 + pixel_weights(generator.resolution, setup.device)) / 2

    @torch.no_grad()
    def draw_photos(count: int) -> Tensor:
        images = crops.images(crops.draw(count))
        augmented = torch.rand(count, 1, 1, 1, device=setup.device) < AUGMENTED
        return torch.where(augmented, augment_as_uploads(images), images)

    def distance(images: Tensor, targets: Tensor) -> Tensor:
        return reconstruction_loss(images, targets, weights, perceptor, setup)

    return FeatureData(
        generator,
        encoder,
        draw_photos,
        distance,
        load_edits(setup, generator),
        held_out=held_out.images(torch.arange(min(HELD_OUT, len(held_out)), device=setup.device)),
    )


def load_edits(setup: Setup, generator: Generator) -> Tensor:
    """Return edits in StyleSpace (n, S): those of the presets' thresholds, in a dry run any."""
    if setup.tiny:  # after few steps CLIP sees no channel's change
        channels = sum(generator.style_channels)
        return torch.randn(DRY_RUN_EDITS, channels, device=setup.device) / channels**0.5
    thresholds = sorted({preset.get("threshold", THRESHOLD) for preset in PRESETS})
    return load_offsets(setup, generator, STRENGTH, thresholds)
