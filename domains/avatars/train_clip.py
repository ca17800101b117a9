"""Train the avatars' CLIP on renders, and once the generator is trained, on its images too."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from domains.avatars.attributes import TABLE
from domains.avatars.models import CODES, load_generator
from domains.avatars.renders import LAYERS_FILE, Composer, sample_labels
from domains.training.augmentations import augment_lightly
from domains.training.caption_data import CaptionData
from domains.training.contrastive import (
    direction_cosines,
    draw_label_changes,
    encode_with,
    train_clip,
    zero_shot_accuracy,
)
from domains.training.networks import CLIP_RESOLUTION, downsample
from domains.training.setup import Setup


def run(setup: Setup) -> None:
    """Run the stage `clip`; it continues from `clip.pt`."""
    data = CaptionData(setup.captions, setup.device)
    composer = Composer(setup.data / LAYERS_FILE, setup.device, CLIP_RESOLUTION)
    draw_from_labels = _image_source(setup, composer)
    rng = torch.Generator().manual_seed(0)

    def draw_images(claims: Tensor) -> tuple[Tensor, Tensor]:
        labels = draw_labels_within(claims)
        return draw_from_labels(labels), labels

    def draw_changes(attribute: Tensor, allowed: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        labels = sample_labels(len(attribute), rng, setup.device)
        before, after = draw_label_changes(TABLE, labels, attribute, allowed, source)
        return draw_from_labels(before), draw_from_labels(after)

    clip = train_clip(setup, TABLE, data, draw_images, draw_changes, pairs=2 * setup.batch)
    labels = sample_labels(512, torch.Generator().manual_seed(99), setup.device)
    encode_image = encode_with(clip)
    accuracy = zero_shot_accuracy(clip, encode_image, TABLE, data, composer(labels), labels)
    print(accuracy, flush=True)
    print(direction_cosines(clip, encode_image, data, draw_changes), flush=True)


def _image_source(setup: Setup, composer: Composer) -> Callable[[Tensor], Tensor]:
    """Return a function from labels (N, attributes) to augmented images (N, 3, 128, 128).

    Once the generator is trained, it draws an eighth of them from perturbed codes.
    """
    generator = load_generator(setup.out).to(setup.device).eval().requires_grad_(False)
    generator.set_upsampling("folded")
    generator_is_trained = (setup.out / "generator.pt").exists()
    u = CODES.basis().to(setup.device)

    def generate(p: Tensor) -> Tensor:
        return generator.synthesis(generator.affine(p @ u), setup.dtype)

    generate = setup.budget("clip").compile(generate)

    def draw_images(labels: Tensor) -> Tensor:
        images = composer(labels)
        if generator_is_trained:
            n = len(labels) // 8
            p, _, blend = CODES.perturb(labels[:n], generator.num_latents, 1.0)
            p[blend > 0] = TABLE.one_hot(labels[:n])[blend > 0][:, None]
            images[:n] = downsample(generate(p))
        return augment_lightly(images)

    return draw_images


def draw_labels_within(claims: Tensor) -> Tensor:
    """Draw labels (N, attributes) that satisfy the claims, bool (N, values)."""
    columns = []
    for attribute, allowed in zip(TABLE.attributes, claims.split(TABLE.sizes, 1), strict=True):
        weights = torch.tensor([value.weight for value in attribute.values], device=claims.device)
        columns.append(torch.multinomial(weights * allowed, 1)[:, 0])
    return torch.stack(columns, 1)
