"""Train the image tower of the statistics; CLIP's text tower stays as it is.

Half of the changes that it sees are partial, as edits and the statistics make them: in some layers
only, with other amplitudes, and the old value still half there.
"""

from __future__ import annotations

import torch

from domains.people.attributes import TABLE
from domains.people.changes import Changes
from domains.people.crops import load_crops
from domains.people.image_tower import ImageTower
from domains.people.models import Perceptor
from domains.training.caption_data import CaptionData
from domains.training.checkpoints import Ema, load_weights, require_weights, save_weights
from domains.training.contrastive import (
    compute_losses,
    direction_cosines,
    draw_batch,
    format_losses,
    unit,
    value_directions,
    zero_shot_accuracy,
)
from domains.training.networks import TEXT_TOWER, load_text_tower
from domains.training.setup import SEED, Setup, set_learning_rate

FILE = "image_tower.pt"
LEARNING_RATE = 1e-3
SCALE = 50.0  # inverse temperature of the contrastive loss
DIRECTIONAL = 2.0  # weight of the loss of changes, which the statistics rely on


def load_image_tower(setup: Setup) -> ImageTower:
    """Load the trained image tower, for evaluation."""
    tower = ImageTower(Perceptor())
    require_weights(tower, setup.out / FILE)
    return tower.to(setup.device).float().eval()


def run(setup: Setup) -> None:
    """Run the stage `image_tower`; it continues from FILE."""
    torch.manual_seed(SEED)
    data, budget = CaptionData(setup.captions, setup.device), setup.budget("image_tower")
    clip = load_text_tower(setup.out / "clip.pt", data.vocabulary_size, setup.device)
    perceptor = Perceptor()
    require_weights(perceptor, setup.out / "perceptor.pt")
    tower = ImageTower(perceptor)
    load_weights(tower, setup.out / FILE)
    tower.to(setup.device, memory_format=torch.channels_last).train()
    crops, held_out = load_crops(setup)
    changes = Changes(setup, crops, budget.compile)
    ema = Ema(tower, 0.998)
    optimizer = torch.optim.AdamW(tower.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    values = value_directions(TABLE, TEXT_TOWER["embed_dim"]).to(setup.device)
    scale = torch.tensor(SCALE, device=setup.device).log()
    encode = budget.compile(tower)
    for step in budget:
        set_learning_rate(optimizer, LEARNING_RATE, budget, warmup=0.05)
        batch = draw_batch(
            TABLE, data, changes.draw_images, changes.draw_partial, 2 * setup.batch, setup.batch
        )
        with setup.autocast():
            images = unit(encode(batch.images))
            with torch.no_grad():
                texts = unit(clip.encode_text(batch.texts))
        losses = compute_losses(batch, images, texts, scale, values, TABLE)
        contrastive, directional, recognition = losses
        optimizer.zero_grad(set_to_none=True)
        (contrastive + DIRECTIONAL * directional + recognition).backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        optimizer.step()
        ema.update()
        if step % 200 == 0:
            budget.log(format_losses(losses))
    ema.copy_to(tower)
    save_weights(tower.eval(), setup.out / FILE)
    budget.save()
    index = torch.arange(len(held_out), device=setup.device)
    images, labels = held_out.images(index), held_out.labels
    print(zero_shot_accuracy(clip, tower, TABLE, data, images, labels), flush=True)
    print(direction_cosines(clip, tower, data, changes.draw, count=len(index)), flush=True)
