"""Trains the avatars' StyleGAN2: mapping network by regression, synthesis against true renders.

There is no discriminator: every latent code has a known picture, so the loss is a distance to it.
"""

from __future__ import annotations

from pathlib import Path

import torch
from codes import (
    BLOCK,
    W_DIM,
    affine_masks,
    basis,
    labels_of,
    new_generator,
    noisy_amplitudes,
    one_hot,
    target_of_z,
)
from renders import Composer, sample_labels
from torch import Tensor
from torch.nn import functional as F
from training import Budget, Ema, cosine, load, psnr, save, save_grid

from styleclip_networks.stylegan2 import Generator

LEARNING_RATE = 0.02
MAPPING_RATE = 0.3  # on weights stored as N(0, 1) / 0.01
FACE_BOX = (slice(62, 180), slice(76, 180))  # rows, columns: brows to beard
EYES_BOX = (slice(72, 128), slice(84, 172))


def _weights(device: torch.device) -> Tensor:
    weights = torch.ones(1, 1, 256, 256, device=device)
    weights[:, :, FACE_BOX[0], FACE_BOX[1]] = 4.0
    weights[:, :, EYES_BOX[0], EYES_BOX[1]] = 8.0
    return weights / weights.mean()


def picture_loss(made: Tensor, true: Tensor, weights: Tensor) -> Tensor:
    """L1 and L2, L1 of the gradients, and L1 at 1/4 and 1/16 of the size; the face counts more.

    L2 is what finds eyes and brows at all: few pixels, and different in every avatar, so that
    their median, which L1 alone would draw, is plain skin.
    """
    error = made - true
    loss = ((error.abs() + 2 * error.square()) * weights).mean()
    loss = loss + 0.5 * ((error[:, :, 1:] - error[:, :, :-1]).abs() * weights[:, :, 1:]).mean()
    loss = loss + 0.5 * ((error[..., 1:] - error[..., :-1]).abs() * weights[..., 1:]).mean()
    for factor in (4, 16):
        loss = loss + 0.5 * F.avg_pool2d(error, factor).abs().mean()
    return loss


def train_mapping(generator: Generator, budget: Budget, device: torch.device) -> None:
    """Fits the mapping network to `target_of_z`."""
    u = basis().to(device)
    optimizer = torch.optim.Adam(generator.style.parameters(), lr=MAPPING_RATE, betas=(0.9, 0.99))
    mapping = torch.compile(generator.style) if budget.compile else generator.style
    for step in budget:
        for group in optimizer.param_groups:
            group["lr"] = MAPPING_RATE * cosine(budget.fraction, warmup=0.02)
        z = torch.randn(4096 if budget.compile else 64, W_DIM, device=device)
        with torch.autocast(device.type, torch.bfloat16, enabled=budget.compile):
            w = mapping(z)
        loss = F.mse_loss(w.float(), target_of_z(z) @ u) * 10
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if step % 250 == 0:
            budget.log(f"mapping loss {loss.item():.4f}")
    with torch.no_grad():
        z = torch.randn(4096, W_DIM, device=device)
        p = generator.mapping(z) @ u.T / BLOCK
        right = (labels_of(p) == labels_of(target_of_z(z))).float()
        budget.log(f"mapping: each attribute {right.mean():.3f}, all {right.prod(1).mean():.3f}")


@torch.no_grad()
def training_codes(
    generator: Generator, labels: Tensor, noise: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A batch's amplitudes (N, L, values), labels, runner-up labels and blends.

    A quarter are plain avatars, a quarter come from the mapping network (drawn as their strongest
    values) and the rest are disturbed as by edits.
    """
    quarter = len(labels) // 4
    rows = generator.num_latents
    p, other, blend = noisy_amplitudes(labels, rows, noise)
    p[:quarter] = one_hot(labels[:quarter])[:, None]
    u = basis().to(labels.device)
    z = torch.randn(quarter, W_DIM, device=labels.device)
    mapped = generator.mapping(z) @ u.T / BLOCK
    labels = labels.clone()
    labels[quarter : 2 * quarter] = labels_of(mapped)
    p[quarter : 2 * quarter] = mapped[:, None]
    blend[: 2 * quarter] = 0
    return p, labels, other, blend


def train_synthesis(
    generator: Generator, layers: Path, budget: Budget, device: torch.device, batch: int
) -> None:
    """Fits affine layers and synthesis; leaves the averaged weights in `generator`."""
    u = basis().to(device)
    masks = {i: m.to(device) for i, m in affine_masks(generator).items()}
    weights = _weights(device)
    composer = Composer(layers, device)
    rng = torch.Generator().manual_seed(budget.seed)
    ema = Ema(generator, 0.999)
    trained = [p for n, p in generator.named_parameters() if not n.startswith("style.")]
    rate = LEARNING_RATE * budget.rate
    optimizer = torch.optim.Adam(trained, lr=rate, betas=(0.9, 0.99), fused=budget.compile)
    dtype = torch.bfloat16 if budget.compile else torch.float32
    generator.upsample_as("folded")

    def step_loss(p: Tensor, labels: Tensor, other: Tensor, blend: Tensor) -> Tensor:
        styles = generator.affine(p @ u)
        made = generator.synthesis(styles, dtype)
        return picture_loss(made, truth(labels, other, blend), weights)

    def truth(labels: Tensor, other: Tensor, blend: Tensor) -> Tensor:
        with torch.no_grad():
            picture = composer(labels)
            return torch.lerp(picture, composer(other), blend[:, None, None, None])

    if budget.compile:
        step_loss = torch.compile(step_loss)  # type: ignore[assignment]
    for step in budget:
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine(budget.fraction, warmup=0.02)
        labels = sample_labels(batch, rng, device)
        noise = min(1.0, budget.fraction * 3)
        p, labels, other, blend = training_codes(generator, labels, noise)
        loss = step_loss(p, labels, other, blend)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for i, mask in masks.items():
                generator.modulation(i).weight.mul_(mask)
        ema.update()
        if step % 200 == 0:
            budget.log(f"synthesis loss {loss.item():.4f}")
    ema.copy_to(generator)
    for i, mask in masks.items():
        generator.modulation(i).weight.data.mul_(mask)


@torch.no_grad()
def report(generator: Generator, layers: Path, device: torch.device, out: Path) -> None:
    """PSNR of plain, disturbed and mapped codes, and sample grids."""
    u = basis().to(device)
    composer = Composer(layers, device)
    labels = sample_labels(256, torch.Generator().manual_seed(123), device)
    torch.manual_seed(5)
    plain, _, _ = noisy_amplitudes(labels, generator.num_latents, 0.0)
    noisy, _, _ = noisy_amplitudes(labels, generator.num_latents, 1.0)
    true = composer(labels)
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    grids = [true[:16]]
    for name, p in (("plain", plain), ("disturbed", noisy)):
        made = torch.cat([generator.synthesis(generator.affine(q @ u), dtype) for q in p.split(64)])
        print(f"PSNR {name}: {psnr(made, true)}", flush=True)
        grids.append(made[:16])
    z = torch.randn(16, W_DIM, device=device)
    w_plus = generator.mapping(z)[:, None].expand(-1, generator.num_latents, -1)
    grids.append(generator.synthesis(generator.affine(w_plus), dtype))
    save_grid(torch.cat(grids), 16, out / "generator.jpg")
    steps = torch.linspace(0, 1, 8, device=device)
    rows = []
    for i in range(0, 8, 2):
        a, b = plain[i], plain[i + 1]
        p = torch.stack([torch.lerp(a, b, t) for t in steps])
        rows.append(generator.synthesis(generator.affine(p @ u), dtype))
    save_grid(torch.cat(rows), 8, out / "interpolation.jpg")


def load_generator(out: Path) -> Generator:
    """The generator as far as it is trained: `mapping.pt` and `generator.pt` of `out`."""
    generator = new_generator()
    load(generator.style, out / "mapping.pt")
    load(generator, out / "generator.pt", without="style.")
    return generator


def run_mapping(out: Path, device: torch.device, budget: Budget) -> None:
    """The stage `mapping`."""
    torch.manual_seed(budget.seed)
    generator = load_generator(out).to(device)
    train_mapping(generator, budget, device)
    save(generator.style, out / "mapping.pt")


def run(layers: Path, out: Path, device: torch.device, budget: Budget, batch: int) -> None:
    """The stage `generator`; continues from `generator.pt` where there is one."""
    torch.manual_seed(budget.seed)
    generator = load_generator(out).to(device)
    train_synthesis(generator, layers, budget, device, batch)
    save(generator, out / "generator.pt", without="style.")
    report(generator, layers, device, out)
