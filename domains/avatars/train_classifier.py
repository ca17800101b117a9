"""Trains the judge of the quality report on renders, with the disturbances of uploads."""

from __future__ import annotations

from pathlib import Path

import torch
from classifier import Classifier, loss, predict
from renders import Composer, sample_labels
from torch import Tensor
from train_encoder import disturb
from training import Budget, cosine, save


def run(layers: Path, out: Path, device: torch.device, budget: Budget, batch: int) -> None:
    """The stage `classifier`."""
    torch.manual_seed(budget.seed)
    model = Classifier().to(device, memory_format=torch.channels_last)
    composer = Composer(layers, device)
    rng = torch.Generator().manual_seed(budget.seed + 2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=0.02)
    amp = torch.autocast(device.type, torch.bfloat16, enabled=budget.compile)

    def step_loss(pictures: Tensor, labels: Tensor) -> Tensor:
        with amp:
            logits = model(pictures)
        return loss(logits, labels)

    if budget.compile:
        step_loss = torch.compile(step_loss)  # type: ignore[assignment]
    for step in budget:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * cosine(budget.fraction, warmup=0.05)
        labels = sample_labels(batch, rng, device)
        pictures = disturb(composer(labels)).contiguous(memory_format=torch.channels_last)
        value = step_loss(pictures, labels)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        optimizer.step()
        if step % 200 == 0:
            budget.log(f"classifier loss {value.item():.3f}")
    model.eval()
    save(model, out / "classifier.pt")
    with torch.no_grad():
        labels = sample_labels(1024, torch.Generator().manual_seed(77), device)
        guesses = torch.cat([predict(model(composer(x))) for x in labels.split(128)])
        right = (guesses == labels).float().mean(0)
        print("classifier right by attribute:", [f"{x:.3f}" for x in right.tolist()], flush=True)
