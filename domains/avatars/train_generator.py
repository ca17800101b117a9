"""Train the avatars' StyleGAN2: the mapping network by regression, synthesis against renders.

There is no discriminator: the image of every latent code is known, so the loss is a distance to it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.avatars.latent_codes import (
    BLOCK,
    W_DIM,
    one_hot,
    perturb_amplitudes,
    strongest_values,
    target_of_z,
    value_basis,
)
from domains.avatars.models import affine_masks, load_generator
from domains.avatars.renders import Composer, sample_labels
from domains.avatars.training import (
    SEED,
    Ema,
    Setup,
    format_psnr,
    save_grid,
    save_weights,
    set_learning_rate,
)
from styleclip_networks.stylegan2 import Generator

MAPPING_LEARNING_RATE = 0.3  # for weights stored as N(0, 1) / 0.01
LEARNING_RATE = 0.02
FACE_BOX = (slice(62, 180), slice(76, 180))  # rows, columns: brows to beard
EYES_BOX = (slice(72, 128), slice(84, 172))


def run_mapping(setup: Setup) -> None:
    """Run the stage `mapping`: fit the mapping network to `target_of_z`."""
    torch.manual_seed(SEED)
    device = setup.device
    budget = setup.budget("mapping")
    generator = load_generator(setup.out).to(device)
    u = value_basis().to(device)
    optimizer = torch.optim.Adam(
        generator.style.parameters(), lr=MAPPING_LEARNING_RATE, betas=(0.9, 0.99)
    )
    mapping = torch.compile(generator.style) if setup.on_gpu else generator.style
    for step in budget:
        set_learning_rate(optimizer, MAPPING_LEARNING_RATE, budget.fraction, warmup=0.02)
        z = torch.randn(4096 if setup.on_gpu else 64, W_DIM, device=device)
        with setup.autocast():
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
        correct = (strongest_values(p) == strongest_values(target_of_z(z))).float()
        budget.log(
            f"mapping: each attribute {correct.mean():.3f}, all {correct.prod(1).mean():.3f}"
        )
    save_weights(generator.style, setup.out / "mapping.pt")


def run_synthesis(setup: Setup) -> None:
    """Run the stage `generator`: fit affine layers and synthesis; continues from `generator.pt`."""
    torch.manual_seed(SEED)
    device = setup.device
    budget = setup.budget("generator")
    generator = load_generator(setup.out).to(device)
    generator.set_upsampling("folded")
    u = value_basis().to(device)
    masks = {i: mask.to(device) for i, mask in affine_masks(generator).items()}
    weights = _pixel_weights(device)
    composer = Composer(setup.layers, device)
    rng = torch.Generator().manual_seed(SEED)
    ema = Ema(generator, 0.999)
    trained = [p for name, p in generator.named_parameters() if not name.startswith("style.")]
    optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE, betas=(0.9, 0.99), fused=setup.on_gpu)

    def compute_loss(p: Tensor, labels: Tensor, other: Tensor, blend: Tensor) -> Tensor:
        images = generator.synthesis(generator.affine(p @ u), setup.dtype)
        with torch.no_grad():
            targets = torch.lerp(composer(labels), composer(other), blend[:, None, None, None])
        return image_loss(images, targets, weights)

    if setup.on_gpu:
        compute_loss = torch.compile(compute_loss)  # type: ignore[assignment]
    for step in budget:
        set_learning_rate(optimizer, LEARNING_RATE, budget.fraction, warmup=0.02)
        labels = sample_labels(setup.batch, rng, device)
        noise = min(1.0, budget.fraction * 3)
        loss = compute_loss(*draw_training_codes(generator, labels, noise))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        _apply_masks(generator, masks)
        ema.update()
        if step % 200 == 0:
            budget.log(f"synthesis loss {loss.item():.4f}")
    ema.copy_to(generator)
    _apply_masks(generator, masks)
    save_weights(generator, setup.out / "generator.pt", exclude="style.")
    report(generator, composer, setup)


def image_loss(images: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """Compute L1 and L2, L1 of the gradients, and L1 at 1/4 and 1/16 of the resolution.

    Without L2, eyes and brows stay plain skin: they cover few pixels and differ in every avatar, so
    that their median, the minimum of L1, is skin.

    Args:
        images, targets: (N, 3, 256, 256) in [-1, 1].
        weights: (1, 1, 256, 256), of mean 1.
    """
    error = images - targets
    loss = ((error.abs() + 2 * error.square()) * weights).mean()
    loss = loss + 0.5 * ((error[:, :, 1:] - error[:, :, :-1]).abs() * weights[:, :, 1:]).mean()
    loss = loss + 0.5 * ((error[..., 1:] - error[..., :-1]).abs() * weights[..., 1:]).mean()
    for factor in (4, 16):
        loss = loss + 0.5 * F.avg_pool2d(error, factor).abs().mean()
    return loss


def _pixel_weights(device: torch.device) -> Tensor:
    """Return weights of mean 1 (1, 1, 256, 256): the face counts more, the eyes most."""
    weights = torch.ones(1, 1, 256, 256, device=device)
    weights[:, :, FACE_BOX[0], FACE_BOX[1]] = 4.0
    weights[:, :, EYES_BOX[0], EYES_BOX[1]] = 8.0
    return weights / weights.mean()


@torch.no_grad()
def _apply_masks(generator: Generator, masks: dict[int, Tensor]) -> None:
    for i, mask in masks.items():
        generator.modulation(i).weight.mul_(mask)


@torch.no_grad()
def draw_training_codes(
    generator: Generator, labels: Tensor, noise: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw a batch of codes and the images that they mean.

    A quarter are plain avatars, a quarter come from the mapping network (and mean their strongest
    values), and the others are perturbed as by edits.

    Args:
        labels: int64 (N, attributes).
        noise: strength of the perturbation, from 0 to 1.

    Returns:
        Amplitudes (N, L, NUM_VALUES), labels, the labels to blend in, and their weight (N,).
    """
    quarter = len(labels) // 4
    p, other, blend = perturb_amplitudes(labels, generator.num_latents, noise)
    p[:quarter] = one_hot(labels[:quarter])[:, None]
    u = value_basis().to(labels.device)
    z = torch.randn(quarter, W_DIM, device=labels.device)
    mapped = generator.mapping(z) @ u.T / BLOCK
    labels = labels.clone()
    labels[quarter : 2 * quarter] = strongest_values(mapped)
    p[quarter : 2 * quarter] = mapped[:, None]
    blend[: 2 * quarter] = 0
    return p, labels, other, blend


@torch.no_grad()
def report(generator: Generator, composer: Composer, setup: Setup) -> None:
    """Print the PSNR of plain and perturbed codes, and save sample grids."""
    u = value_basis().to(setup.device)

    def generate(p: Tensor) -> Tensor:
        return generator.synthesis(generator.affine(p @ u), setup.dtype)

    labels = sample_labels(256, torch.Generator().manual_seed(123), setup.device)
    torch.manual_seed(5)
    plain, _, _ = perturb_amplitudes(labels, generator.num_latents, 0.0)
    perturbed, _, _ = perturb_amplitudes(labels, generator.num_latents, 1.0)
    targets = composer(labels)
    grids = [targets[:16]]
    for name, p in (("plain", plain), ("perturbed", perturbed)):
        images = torch.cat([generate(x) for x in p.split(64)])
        print(f"PSNR {name}: {format_psnr(images, targets)}", flush=True)
        grids.append(images[:16])
    z = torch.randn(16, W_DIM, device=setup.device)
    w_plus = generator.mapping(z)[:, None].expand(-1, generator.num_latents, -1)
    grids.append(generator.synthesis(generator.affine(w_plus), setup.dtype))
    save_grid(torch.cat(grids), 16, setup.out / "generator.jpg")
    steps = torch.linspace(0, 1, 8, device=setup.device)
    rows = [
        generate(torch.stack([torch.lerp(plain[i], plain[i + 1], step) for step in steps]))
        for i in range(0, 8, 2)
    ]
    save_grid(torch.cat(rows), 8, setup.out / "interpolation.jpg")
