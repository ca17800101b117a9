"""Train the avatars' StyleGAN2: the mapping network by regression, synthesis against renders.

There is no discriminator: the image of every latent code is known, so the loss is a distance to it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from domains.avatars.attributes import TABLE
from domains.avatars.models import CODES, load_generator, sparse_affine
from domains.avatars.renders import LAYERS_FILE, Composer, sample_labels
from domains.training.checkpoints import Ema, save_weights
from domains.training.regression import fit_mapping, image_loss
from domains.training.sample_grids import format_psnr, save_grid
from domains.training.setup import SEED, Setup, set_learning_rate
from styleclip_contract.wire import W_DIM
from styleclip_networks.stylegan2 import Generator

LEARNING_RATE = 0.02
FACE_BOX = (slice(62, 180), slice(76, 180))  # rows, columns: brows to beard
EYES_BOX = (slice(72, 128), slice(84, 172))


def run_mapping(setup: Setup) -> None:
    """Run the stage `mapping`: fit the mapping network to the latents of `LatentCodes`."""
    u = CODES.basis().to(setup.device)

    def report(generator: Generator) -> str:
        z = torch.randn(4096, W_DIM, device=setup.device)
        p = CODES.amplitudes(generator.mapping(z))
        correct = (TABLE.strongest(p) == TABLE.strongest(CODES.target_of_z(z))).float()
        return f"mapping: each attribute {correct.mean():.3f}, all {correct.prod(1).mean():.3f}"

    fit_mapping(setup, load_generator(setup.out), lambda z: CODES.target_of_z(z) @ u, report)


def run_synthesis(setup: Setup) -> None:
    """Run the stage `generator`: fit affine layers and synthesis; continues from `generator.pt`."""
    torch.manual_seed(SEED)
    device = setup.device
    budget = setup.budget("generator")
    generator = load_generator(setup.out).to(device)
    generator.set_upsampling("folded")
    u = CODES.basis().to(device)
    affine = sparse_affine(generator)
    weights = _pixel_weights(device)
    composer = Composer(setup.data / LAYERS_FILE, device)
    rng = torch.Generator().manual_seed(SEED)
    ema = Ema(generator, 0.999)
    trained = [p for name, p in generator.named_parameters() if not name.startswith("style.")]
    optimizer = torch.optim.Adam(trained, lr=LEARNING_RATE, betas=(0.9, 0.99), fused=setup.on_gpu)

    def compute_loss(p: Tensor, labels: Tensor, other: Tensor, blend: Tensor) -> Tensor:
        images = generator.synthesis(generator.affine(p @ u), setup.dtype)
        with torch.no_grad():
            targets = torch.lerp(composer(labels), composer(other), blend[:, None, None, None])
        return image_loss(images, targets, weights)

    compute_loss = budget.compile(compute_loss)
    for step in budget:
        set_learning_rate(optimizer, LEARNING_RATE, budget, warmup=0.02)
        labels = sample_labels(setup.batch, rng, device)
        noise = min(1.0, budget.fraction * 3)
        loss = compute_loss(*draw_training_codes(generator, labels, noise))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        affine.apply(generator)
        ema.update()
        if step % 200 == 0:
            budget.log(f"synthesis loss {loss.item():.4f}")
    ema.copy_to(generator)
    affine.apply(generator)
    save_weights(generator, setup.out / "generator.pt", exclude="style.")
    budget.save()
    report(generator, composer, setup)


def _pixel_weights(device: torch.device) -> Tensor:
    """Return weights of mean 1 (1, 1, 256, 256): the face counts more, the eyes most."""
    weights = torch.ones(1, 1, 256, 256, device=device)
    weights[:, :, FACE_BOX[0], FACE_BOX[1]] = 4.0
    weights[:, :, EYES_BOX[0], EYES_BOX[1]] = 8.0
    return weights / weights.mean()


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
        Amplitudes (N, L, num_values), labels, the labels to blend in, and their weight (N,).
    """
    quarter = len(labels) // 4
    p, other, blend = CODES.perturb(labels, generator.num_latents, noise)
    p[:quarter] = TABLE.one_hot(labels[:quarter])[:, None]
    z = torch.randn(quarter, W_DIM, device=labels.device)
    mapped = CODES.amplitudes(generator.mapping(z))
    labels = labels.clone()
    labels[quarter : 2 * quarter] = TABLE.strongest(mapped)
    p[quarter : 2 * quarter] = mapped[:, None]
    blend[: 2 * quarter] = 0
    return p, labels, other, blend


@torch.no_grad()
def report(generator: Generator, composer: Composer, setup: Setup) -> None:
    """Print the PSNR of plain and perturbed codes, and save sample grids."""
    u = CODES.basis().to(setup.device)

    def generate(p: Tensor) -> Tensor:
        return generator.synthesis(generator.affine(p @ u), setup.dtype)

    labels = sample_labels(256, torch.Generator().manual_seed(123), setup.device)
    torch.manual_seed(5)
    plain, _, _ = CODES.perturb(labels, generator.num_latents, 0.0)
    perturbed, _, _ = CODES.perturb(labels, generator.num_latents, 1.0)
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
