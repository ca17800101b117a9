"""Regression: a mapping network towards known latents, images towards known images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.training.checkpoints import save_weights
from domains.training.setup import SEED, Setup, set_learning_rate
from styleclip_contract.wire import W_DIM
from styleclip_networks.stylegan2 import Generator

MAPPING_LEARNING_RATE = 1.0  # for weights stored as N(0, 1) / 0.01


def fit_mapping(
    setup: Setup,
    generator: Generator,
    latent_of_z: Callable[[Tensor], Tensor],
    report: Callable[[Generator], str],
) -> None:
    """Run a stage `mapping`: fit the mapping network to `latent_of_z`, (N, W_DIM) to (N, W_DIM).

    Args:
        generator: its mapping network is trained and written to `mapping.pt`.
        report: returns what to log at the end.
    """
    torch.manual_seed(SEED)
    device = setup.device
    budget = setup.budget("mapping")
    generator.to(device)
    optimizer = torch.optim.Adam(
        generator.style.parameters(), lr=MAPPING_LEARNING_RATE, betas=(0.9, 0.99)
    )
    mapping = budget.compile(generator.style)
    for step in budget:
        set_learning_rate(optimizer, MAPPING_LEARNING_RATE, budget, warmup=0.02)
        z = torch.randn(4096 if setup.on_gpu else 64, W_DIM, device=device)
        with setup.autocast():
            w = mapping(z)
        loss = F.mse_loss(w.float(), latent_of_z(z)) * 10
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 250 == 0:
            budget.log(f"mapping loss {loss.item():.4f}")
    with torch.no_grad():
        budget.log(report(generator))
    save_weights(generator.style, setup.out / "mapping.pt")
    budget.save()


def image_loss(images: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Compute L1 and L2, L1 of the gradients, and L1 at 1/4 and 1/16 of the resolution.

    Without L2, eyes and brows stay plain skin: they cover few pixels and differ in every face, so
    that their median, the minimum of L1, is skin.

    Args:
        images, targets: (N, 3, r, r) in [-1, 1].
        weights: (1, 1, r, r), of mean 1.
    """
    error = images - targets
    loss = ((error.abs() + 2 * error.square()) * weights).mean()
    loss = loss + 0.5 * ((error[:, :, 1:] - error[:, :, :-1]).abs() * weights[:, :, 1:]).mean()
    loss = loss + 0.5 * ((error[..., 1:] - error[..., :-1]).abs() * weights[..., 1:]).mean()
    for factor in (4, 16):
        loss = loss + 0.5 * F.avg_pool2d(error, factor).abs().mean()
    return loss
