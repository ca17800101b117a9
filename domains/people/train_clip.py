"""Train people's CLIP on crops and captions, and on changes that the generator draws."""

from __future__ import annotations

import torch
from torch import Tensor

from domains.people.attributes import TABLE
from domains.people.changes import Changes
from domains.people.crops import load_crops
from domains.training.caption_data import CaptionData
from domains.training.contrastive import (
    direction_cosines,
    encode_with,
    train_clip,
    zero_shot_accuracy,
)
from domains.training.networks import downsample
from domains.training.setup import Setup


def run(setup: Setup) -> None:
    """Run the stage `clip`; it continues from `clip.pt`."""
    data = CaptionData(setup.captions, setup.device)
    crops, held_out = load_crops(setup)
    changes = Changes(setup, crops, setup.budget("clip").compile)

    def draw_images(claims: Tensor) -> tuple[Tensor, Tensor]:
        images, labels = changes.draw_images(claims)
        return downsample(images), labels

    @torch.no_grad()
    def draw_changes(attribute: Tensor, allowed: Tensor, source: Tensor) -> tuple[Tensor, Tensor]:
        before, after = changes.draw(attribute, allowed, source)
        return downsample(before), downsample(after)

    clip = train_clip(setup, TABLE, data, draw_images, draw_changes, pairs=setup.batch // 2)
    index = torch.arange(len(held_out), device=setup.device)
    images, labels = held_out.images(index), held_out.labels
    encode_image = encode_with(clip)
    print(zero_shot_accuracy(clip, encode_image, TABLE, data, images, labels), flush=True)
    print(direction_cosines(clip, encode_image, data, draw_changes, count=len(index)), flush=True)
