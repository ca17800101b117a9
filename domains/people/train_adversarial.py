"""Train people's StyleGAN2 on against a discriminator, so that hair, skin and edges become sharp.

Half of the images come from the mapping network, half from crops' labels and scenes. The latter
also stay close to their crops, so that StyleSpace goes on meaning what it means.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.attributes import TABLE
from domains.people.codes import CODES, add_scene
from domains.people.crops import Crops, load_crops
from domains.people.models import (
    Perceptor,
    channels_of,
    load_generator,
    load_perceptor,
    load_scene_encoder,
    sparse_affine,
)
from domains.people.reconstruction import (
    pixel_weights,
    reconstruction_loss,
    report_reconstruction,
)
from domains.training.checkpoints import Ema, load_weights, save_weights
from domains.training.discriminator import (
    Discriminator,
    augment_for_discriminator,
    gradient_penalty,
)
from domains.training.frechet import frechet_distance
from domains.training.images import resize
from domains.training.sample_grids import save_grid
from domains.training.setup import SEED, Setup, set_learning_rate
from styleclip_contract.wire import FACE_SIZE, W_DIM
from styleclip_networks.stylegan2 import Generator

LEARNING_RATE = 0.002
RECONSTRUCTION = 1.0  # weight of the distance from crops
R1_EVERY, R1_WEIGHT = 16, 2.0  # steps; half of gamma
BATCH_SHARE = 2  # a batch is this much smaller than those of regression
SAMPLES = 2000  # images of the Fréchet distance


def run(setup: Setup) -> None:
    """Run the stage `adversarial`; it continues from `generator.pt` and `discriminator.pt`."""
    torch.manual_seed(SEED + 3)
    device = setup.device
    budget = setup.budget("adversarial")
    crops, held_out = load_crops(setup)
    generator = load_generator(setup).to(device)
    generator.style.requires_grad_(False)
    generator.set_upsampling("folded")
    scene_encoder = load_scene_encoder(setup.out, crops.scenes.shape[1]).to(device).eval()
    scene_encoder.requires_grad_(False)
    discriminator = Discriminator(channels_of(setup))
    load_weights(discriminator, setup.out / "discriminator.pt")
    discriminator.to(device, memory_format=torch.channels_last)
    perceptor = load_perceptor(setup)
    affine, weights = sparse_affine(generator), pixel_weights(generator.resolution, device)
    ema = Ema(generator, 0.998)
    trained = [p for p in generator.parameters() if p.requires_grad]
    optimizers = [
        torch.optim.Adam(parameters, lr=LEARNING_RATE, betas=(0.0, 0.99), fused=setup.on_gpu)
        for parameters in (trained, list(discriminator.parameters()))
    ]
    u = CODES.basis().to(device)
    half = max(2, setup.batch // BATCH_SHARE // 4 * 2)

    def generate(w_plus: Tensor) -> Tensor:
        return generator.synthesis(generator.affine(w_plus), setup.dtype)

    def judge(images: Tensor) -> Tensor:
        images = augment_for_discriminator(images).contiguous(memory_format=torch.channels_last)
        with setup.autocast():
            return discriminator(images)

    def generator_loss(w_plus: Tensor, targets: Tensor) -> Tensor:
        images = generate(w_plus)
        adversarial = F.softplus(-judge(images)).mean()
        close = reconstruction_loss(images[half:], targets, weights, perceptor, setup)
        return adversarial + RECONSTRUCTION * close

    def discriminator_loss(w_plus: Tensor, real: Tensor) -> Tensor:
        with torch.no_grad():
            images = generate(w_plus)
        return F.softplus(judge(images)).mean() + F.softplus(-judge(real)).mean()

    def draw_latents(index: Tensor) -> Tensor:
        """Return W+ of `half` random latents, and of the crops with the indices (half,)."""
        w = generator.mapping(torch.randn(half, W_DIM, device=device))
        p = TABLE.one_hot(crops.complete_labels(index)) @ u
        w = torch.cat([w[:, None], add_scene(p[:, None], scene_encoder(crops.scenes[index]))])
        return w.expand(-1, generator.num_latents, -1)

    if setup.on_gpu:
        generator_loss = torch.compile(generator_loss)  # type: ignore[assignment]
        discriminator_loss = torch.compile(discriminator_loss)  # type: ignore[assignment]
    for step in budget:
        for optimizer in optimizers:
            set_learning_rate(optimizer, LEARNING_RATE, budget, warmup=0.02)
        with torch.no_grad():
            index = crops.draw(half)
            w_plus = draw_latents(index)
            targets = resize(crops.images(index), generator.resolution)
            real = resize(crops.images(crops.draw(2 * half)), generator.resolution)
        loss = discriminator_loss(w_plus, real)
        optimizers[1].zero_grad(set_to_none=True)
        loss.backward()
        if step % R1_EVERY == 0:
            penalty = gradient_penalty(discriminator, augment_for_discriminator(real[:half]))
            (penalty * R1_WEIGHT * R1_EVERY / 2).backward()
        optimizers[1].step()
        discriminator.requires_grad_(False)
        image_loss = generator_loss(w_plus, targets)
        optimizers[0].zero_grad(set_to_none=True)
        image_loss.backward()
        optimizers[0].step()
        discriminator.requires_grad_(True)
        affine.apply(generator)
        ema.update()
        if step % 200 == 0:
            budget.log(f"generator {image_loss.item():.3f} discriminator {loss.item():.3f}")
    ema.copy_to(generator)
    affine.apply(generator)
    save_weights(discriminator, setup.out / "discriminator.pt")
    save_weights(generator, setup.out / "generator.pt", exclude="style.")
    budget.save()
    report_reconstruction(setup, generator, scene_encoder, held_out)
    report_samples(setup, generator, perceptor, crops)


@torch.no_grad()
def report_samples(setup: Setup, generator: Generator, perceptor: Perceptor, crops: Crops) -> None:
    """Print the Fréchet distance between samples and crops, and save samples."""
    count = min(SAMPLES, len(crops))
    rng = torch.Generator(setup.device).manual_seed(1)
    features: list[list[Tensor]] = [[], []]
    samples: list[Tensor] = []
    for index in torch.arange(count, device=setup.device).split(50):
        z = torch.randn(len(index), W_DIM, device=setup.device, generator=rng)
        w_plus = generator.mapping(z)[:, None].expand(-1, generator.num_latents, -1)
        images = generator.synthesis(generator.affine(w_plus), setup.dtype).clamp(-1, 1)
        samples.append(images[: max(0, 64 - 50 * len(samples))])
        for some, kept in zip((images, crops.images(index)), features, strict=True):
            kept.append(perceptor.body(resize(some, FACE_SIZE)).mean((2, 3)))
    distance = frechet_distance(*(torch.cat(kept) for kept in features))
    print(f"Fréchet distance {distance:.3f} ({count} samples)", flush=True)
    save_grid(torch.cat(samples), 8, setup.out / "samples.jpg")
