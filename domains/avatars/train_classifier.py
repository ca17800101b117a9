"""Train the attribute classifier of the quality report, on augmented renders."""

from __future__ import annotations

import torch
from torch import Tensor

from domains.avatars.attributes import TABLE
from domains.avatars.renders import LAYERS_FILE, Composer, sample_labels
from domains.training.augmentations import augment_as_uploads
from domains.training.checkpoints import save_weights
from domains.training.classifier import Classifier, classification_loss
from domains.training.setup import SEED, Setup, set_learning_rate

LEARNING_RATE = 2e-3


def run(setup: Setup) -> None:
    """Run the stage `classifier`."""
    torch.manual_seed(SEED)
    device = setup.device
    budget = setup.budget("classifier")
    model = Classifier(TABLE).to(device, memory_format=torch.channels_last)
    composer = Composer(setup.data / LAYERS_FILE, device)
    rng = torch.Generator().manual_seed(SEED + 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=0.02)
    autocast = setup.autocast()

    def compute_loss(images: Tensor, labels: Tensor) -> Tensor:
        with autocast:
            logits = model(images)
        return classification_loss(logits, labels, TABLE)

    compute_loss = budget.compile(compute_loss)
    for step in budget:
        set_learning_rate(optimizer, LEARNING_RATE, budget, warmup=0.05)
        labels = sample_labels(setup.batch, rng, device)
        images = augment_as_uploads(composer(labels))
        loss = compute_loss(images.contiguous(memory_format=torch.channels_last), labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 200 == 0:
            budget.log(f"classifier loss {loss.item():.3f}")
    model.eval()
    save_weights(model, setup.out / "classifier.pt")
    budget.save()
    report(model, composer)


@torch.no_grad()
def report(model: Classifier, composer: Composer) -> None:
    """Print the accuracy by attribute, on new renders."""
    device = next(model.parameters()).device
    labels = sample_labels(1024, torch.Generator().manual_seed(77), device)
    predictions = torch.cat([TABLE.strongest(model(composer(x))) for x in labels.split(128)])
    correct = (predictions == labels).float().mean(0)
    print("correct by attribute:", [f"{x:.3f}" for x in correct.tolist()], flush=True)
