"""Train people's CLIP on crops and captions, and on changes that the generator draws.

As in `latent_codes.py`, `u` is the basis (values, W_DIM) of amplitudes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from domains.people.attributes import TABLE
from domains.people.codes import CODES, add_scene
from domains.people.crops import load_crops
from domains.people.models import load_generator, load_scene_encoder
from domains.training.augmentations import augment_lightly
from domains.training.caption_data import CaptionData
from domains.training.contrastive import (
    direction_cosines,
    draw_label_changes,
    matches,
    train_clip,
    zero_shot_accuracy,
)
from domains.training.networks import downsample
from domains.training.setup import Setup


def run(setup: Setup) -> None:
    """Run the stage `clip`; it continues from `clip.pt`."""
    data = CaptionData(setup.captions, setup.device)
    crops, held_out = load_crops(setup)
    generator = load_generator(setup).to(setup.device).eval().requires_grad_(False)
    generator.set_upsampling("folded")
    scene_encoder = load_scene_encoder(setup.out, crops.scenes.shape[1]).to(setup.device)
    u = CODES.basis().to(setup.device)

    def generate(labels: Tensor, scenes: Tensor) -> Tensor:
        w = add_scene((TABLE.one_hot(labels) @ u)[:, None], scene_encoder(scenes))
        w_plus = w.expand(-1, generator.num_latents, -1)
        return generator.synthesis(generator.affine(w_plus), setup.dtype)

    generate = setup.budget("clip").compile(generate)

    def draw_images(claims: Tensor) -> tuple[Tensor, Tensor]:
        """Draw crops that satisfy the claims; any crop where none does."""
        fitting = matches(TABLE, crops.labels, claims).T
        index = torch.multinomial(fitting + 1e-9, 1)[:, 0]
        return augment_lightly(downsample(crops.images(index))), crops.labels[index]

    @torch.no_grad()
    def draw_changes(attribute: Tensor, allowed: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        index = crops.draw(len(attribute))
        labels = crops.complete_labels(index)
        both = draw_label_changes(TABLE, labels, attribute, allowed, source)
        before, after = (downsample(generate(some, crops.scenes[index])) for some in both)
        return augment_lightly(before), augment_lightly(after)

    clip = train_clip(setup, TABLE, data, draw_images, draw_changes, pairs=setup.batch // 2)
    index = torch.arange(len(held_out), device=setup.device)
    images, labels = held_out.images(index), held_out.labels
    print(zero_shot_accuracy(clip, TABLE, data, images, labels), flush=True)
    print(direction_cosines(clip, data, draw_changes, count=len(index)), flush=True)
