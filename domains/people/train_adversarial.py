"""Train people's StyleGAN2 on against a discriminator, so that hair, skin and edges become sharp.

Half of the images have the labels of one crop, some of them perturbed as edits do, and the scene of
another; the perceptor has to see their labels. Half are crops', and also stay close to them, so
that StyleSpace goes on meaning what it means.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.attributes import TABLE
from domains.people.crops import Crops, load_crops
from domains.people.latents import CropLatents, load_latents
from domains.people.models import (
    Perceptor,
    channels_of,
    load_generator,
    load_perceptor,
    sparse_affine,
)
from domains.people.reconstruction import (
    pixel_weights,
    reconstruction_loss,
    report_reconstruction,
)
from domains.training.checkpoints import Ema, load_weights, save_weights
from domains.training.classifier import classification_loss
from domains.training.discriminator import (
    Discriminator,
    augment_for_discriminator,
    gradient_penalty,
)
from domains.training.frechet import frechet_distance
from domains.training.images import resize
from domains.training.sample_grids import save_grid
from domains.training.setup import SEED, Setup, TimeBudget, set_learning_rate
from styleclip_contract.wire import FACE_SIZE, W_DIM
from styleclip_networks.stylegan2 import Generator

LEARNING_RATE = 0.002
RECONSTRUCTION = 1.5  # weight of the distance from crops
LABELS = 0.1  # weight of the perceptor's loss of combinations
R1_EVERY, R1_WEIGHT = 16, 2.0  # steps; half of gamma
BATCH_SHARE = 2  # a batch is this much smaller than those of regression
SAMPLES = 2000  # images of the Fréchet distance


@dataclass(eq=False)
class AdversarialTraining:
    """The networks of the stage with their optimizers.

    Attributes:
        perceptor, latents: with frozen networks.
        half: images of a step of combined latents, and as many of crops.
    """

    setup: Setup
    budget: TimeBudget
    generator: Generator
    discriminator: Discriminator
    perceptor: Perceptor
    crops: Crops
    latents: CropLatents

    def __post_init__(self) -> None:
        device = self.setup.device
        self.half = max(2, self.setup.batch // BATCH_SHARE // 4 * 2)
        self.affine = sparse_affine(self.generator)
        self.weights = pixel_weights(self.generator.resolution, device)
        self.ema = Ema(self.generator, 0.998)
        trained = [p for p in self.generator.parameters() if p.requires_grad]
        self.generator_optimizer, self.discriminator_optimizer = (
            torch.optim.Adam(
                parameters, lr=LEARNING_RATE, betas=(0.0, 0.99), fused=self.setup.on_gpu
            )
            for parameters in (trained, list(self.discriminator.parameters()))
        )
        self.compute_generator_loss = self.budget.compile(self.generator_loss)
        self.compute_discriminator_loss = self.budget.compile(self.discriminator_loss)

    def generate(self, w_plus: Tensor) -> Tensor:
        return self.generator.synthesis(self.generator.affine(w_plus), self.setup.dtype)

    def judge(self, images: Tensor) -> Tensor:
        """Return the discriminator's logits (N,) of augmented images."""
        images = augment_for_discriminator(images).contiguous(memory_format=torch.channels_last)
        with self.setup.autocast():
            return self.discriminator(images)

    def generator_loss(self, w_plus: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        """Compute the loss of images: the first `half` have labels, the others targets."""
        images = self.generate(w_plus)
        with self.setup.autocast():
            logits = self.perceptor(resize(images[: self.half], FACE_SIZE))
        adversarial = F.softplus(-self.judge(images)).mean()
        close = reconstruction_loss(
            images[self.half :], targets, self.weights, self.perceptor, self.setup
        )
        named = classification_loss(logits, labels, TABLE)
        return adversarial + LABELS * named + RECONSTRUCTION * close

    def discriminator_loss(self, w_plus: Tensor, real: Tensor) -> Tensor:
        with torch.no_grad():
            images = self.generate(w_plus)
        return F.softplus(self.judge(images)).mean() + F.softplus(-self.judge(real)).mean()

    def draw_latents(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return W+ of `half` combinations, and of the crops with the indices (half,).

        Also return the labels of the combinations.
        """
        others, scenes = (self.crops.draw(self.half) for _ in range(2))
        combined = self.latents.combine(others, scenes, noise=1.0)
        labels = self.latents.combine_labels(others, scenes)
        return torch.cat([combined, self.latents.encode(index)]), labels

    def step(self, step: int) -> tuple[Tensor, Tensor]:
        """Update the discriminator, then the generator; return their losses."""
        for optimizer in (self.generator_optimizer, self.discriminator_optimizer):
            set_learning_rate(optimizer, LEARNING_RATE, self.budget, warmup=0.02)
        resolution = self.generator.resolution
        with torch.no_grad():
            index = self.crops.draw(self.half)
            w_plus, labels = self.draw_latents(index)
            targets = resize(self.crops.images(index), resolution)
            real = resize(self.crops.images(self.crops.draw(2 * self.half)), resolution)
        judged = self._update_discriminator(w_plus, real, step % R1_EVERY == 0)
        return judged, self._update_generator(w_plus, labels, targets)

    def _update_discriminator(self, w_plus: Tensor, real: Tensor, regularize: bool) -> Tensor:
        loss = self.compute_discriminator_loss(w_plus, real)
        self.discriminator_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if regularize:
            images = augment_for_discriminator(real[: self.half])
            penalty = gradient_penalty(self.discriminator, images)
            (penalty * R1_WEIGHT * R1_EVERY / 2).backward()
        self.discriminator_optimizer.step()
        return loss

    def _update_generator(self, w_plus: Tensor, labels: Tensor, targets: Tensor) -> Tensor:
        self.discriminator.requires_grad_(False)
        loss = self.compute_generator_loss(w_plus, labels, targets)
        self.generator_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.generator_optimizer.step()
        self.discriminator.requires_grad_(True)
        self.affine.apply(self.generator)
        self.ema.update()
        return loss

    def save(self) -> None:
        """Write the discriminator and the generator's moving average."""
        self.ema.copy_to(self.generator)
        self.affine.apply(self.generator)
        save_weights(self.discriminator, self.setup.out / "discriminator.pt")
        save_weights(self.generator, self.setup.out / "generator.pt", exclude="style.")


def run(setup: Setup) -> None:
    """Run the stage `adversarial`; it continues from `generator.pt` and `discriminator.pt`."""
    torch.manual_seed(SEED + 3)
    budget = setup.budget("adversarial")
    crops, held_out = load_crops(setup)
    generator = load_generator(setup).to(setup.device)
    generator.style.requires_grad_(False)
    generator.set_upsampling("folded")
    discriminator = Discriminator(channels_of(setup))
    load_weights(discriminator, setup.out / "discriminator.pt")
    discriminator.to(setup.device, memory_format=torch.channels_last)
    perceptor = load_perceptor(setup)
    latents = load_latents(setup, crops, generator.num_latents)
    training = AdversarialTraining(
        setup, budget, generator, discriminator, perceptor, crops, latents
    )
    for step in budget:
        judged, generated = training.step(step)
        if step % 200 == 0:
            budget.log(f"generator {generated.item():.3f} discriminator {judged.item():.3f}")
    training.save()
    budget.save()
    report_reconstruction(setup, generator, latents.scene_encoder, held_out)
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
