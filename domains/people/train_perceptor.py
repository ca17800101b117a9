"""Train what recognizes attributes and persons in crops: one network for losses, one for reports.

The perceptor also embeds identities: the crops of a person attract, those of others repel each
other (InfoNCE). The classifier of the quality report is trained apart, from another seed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.attributes import TABLE
from domains.people.crops import Crops, load_crops
from domains.people.models import Perceptor
from domains.training.augmentations import augment_as_uploads
from domains.training.checkpoints import load_weights, save_weights
from domains.training.classifier import Classifier, classification_loss
from domains.training.setup import SEED, Setup, set_learning_rate

LEARNING_RATE = 2e-3
TEMPERATURE = 0.1


def run_perceptor(setup: Setup) -> None:
    """Run the stage `perceptor`."""
    _train(setup, "perceptor", Perceptor(), SEED)


def run_classifier(setup: Setup) -> None:
    """Run the stage `classifier`."""
    _train(setup, "classifier", Classifier(TABLE), SEED + 7)


def _train(setup: Setup, stage: str, model: Classifier, seed: int) -> None:
    torch.manual_seed(seed)
    budget = setup.budget(stage)
    path = setup.out / f"{stage}.pt"
    load_weights(model, path)
    model.to(setup.device, memory_format=torch.channels_last)
    crops, held_out = load_crops(setup)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    autocast = setup.autocast()

    def compute_loss(images: Tensor, labels: Tensor, persons: Tensor) -> Tensor:
        with autocast:
            features = model.body(images).flatten(1)
            loss = classification_loss(model.head(features), labels, TABLE)
            if isinstance(model, Perceptor):
                embedding = F.normalize(model.identity(features).float(), dim=1)
                loss = loss + identity_loss(embedding, persons)
        return loss

    compute_loss = budget.compile(compute_loss)
    pairs = Pairs(crops)
    for step in budget:
        set_learning_rate(optimizer, LEARNING_RATE, budget, warmup=0.05)
        index = pairs.draw(setup.batch)
        images = augment_as_uploads(crops.images(index))
        images = images.contiguous(memory_format=torch.channels_last)
        loss = compute_loss(images, crops.labels[index], crops.persons[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 200 == 0:
            budget.log(f"{stage} loss {loss.item():.3f}")
    model.eval()
    save_weights(model, path)
    budget.save()
    report(model, held_out)


class Pairs:
    """Draws crops so that each comes with another one of the same person."""

    def __init__(self, crops: Crops) -> None:
        _, person = crops.persons.unique(return_inverse=True)
        self._count = torch.bincount(person)
        self._order = person.argsort(stable=True)  # the crops of a person, one after the other
        self._first = self._count.cumsum(0) - self._count

    def draw(self, count: int) -> Tensor:
        """Draw indices (count,) of crops: two of each of count / 2 persons."""
        device = self._count.device
        person = torch.randint(len(self._count), (count // 2,), device=device)
        place = (torch.rand(count // 2, device=device) * self._count[person]).long()
        other = (place + 1) % self._count[person]
        return self._order[self._first[person] + torch.stack([place, other])].flatten()


def identity_loss(embedding: Tensor, persons: Tensor) -> Tensor:
    """Compute InfoNCE among unit embeddings (N, d): the crops of a person find each other."""
    logits = embedding @ embedding.T / TEMPERATURE
    itself = torch.eye(len(logits), device=logits.device, dtype=torch.bool)
    same = (persons[:, None] == persons[None]) & ~itself
    log_probability = logits.masked_fill(itself, -1e4).log_softmax(1)
    return -(log_probability * same).sum(1).div(same.sum(1).clamp(min=1)).mean()


@torch.no_grad()
def report(model: Classifier, crops: Crops) -> None:
    """Print the accuracy by attribute on held-out crops, and how well persons are told apart."""
    batches = torch.arange(len(crops), device=crops.labels.device).split(64)
    scores = torch.cat([model(crops.images(index)) for index in batches])
    right, known = TABLE.strongest(scores) == crops.labels, crops.labels >= 0
    accuracy = (right & known).sum(0) / known.sum(0).clamp(min=1)
    by_name = zip(TABLE.names, accuracy.tolist(), strict=True)
    print("correct by attribute: " + ", ".join(f"{n} {x:.3f}" for n, x in by_name), flush=True)
    if isinstance(model, Perceptor):
        embedding = torch.cat([model.embed(crops.images(index)) for index in batches])
        cosines = embedding @ embedding.T
        same = crops.persons[:, None] == crops.persons[None]
        others = cosines[~same].mean() if bool((~same).any()) else torch.zeros(())
        print(f"cosine of the same person {cosines[same].mean():.3f}, others {others:.3f}")
