"""Train people's e4e: from crops to their latents, then to reconstructions of the same person.

A crop's latent is known, and so is that of an image of the generator. The first stage learns
nothing else, with many more images a second; in the second one the distance of reconstructions,
with an identity term, decides what the latent leaves open (Tov et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.attributes import TABLE
from domains.people.codes import CODES
from domains.people.crops import Crops, load_crops
from domains.people.latents import load_latents
from domains.people.models import load_generator, load_perceptor
from domains.people.reconstruction import pixel_weights, reconstruction_loss
from domains.training.augmentations import augment_as_uploads
from domains.training.batch_norm import recompute_batch_norm
from domains.training.checkpoints import Ema, load_weights, save_weights
from domains.training.classifier import classification_loss
from domains.training.images import resize
from domains.training.networks import build_encoder
from domains.training.sample_grids import format_psnr, save_grid
from domains.training.setup import SEED, Setup, TimeBudget, set_learning_rate
from styleclip_contract.wire import FACE_SIZE
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.stylegan2 import Generator

LEARNING_RATE = 1e-3
LATENT = 5.0  # weight of the distance from known latents
LABELS, LABEL_SCALE = 0.1, 6.0  # weight of the loss of labels; inverse temperature of amplitudes
BATCH_SHARE = 4  # a batch is this much smaller than those of regression


class EncoderTraining:
    """The encoder with its optimizer and moving average; it continues from `encoder.pt`."""

    def __init__(self, setup: Setup, budget: TimeBudget, num_latents: int) -> None:
        self.setup, self.budget = setup, budget
        self.encoder = build_encoder(num_latents)
        load_weights(self.encoder, setup.out / "encoder.pt")
        self.encoder.to(setup.device, memory_format=torch.channels_last).train()
        self.ema = Ema(self.encoder, 0.998)
        self.optimizer = torch.optim.AdamW(
            self.encoder.parameters(), lr=LEARNING_RATE, weight_decay=0.01
        )

    def encode(self, inputs: Tensor) -> Tensor:
        """Return W+ (N, L, W_DIM) in float32."""
        with self.setup.autocast():
            w_plus = self.encoder(inputs)
        return w_plus.float()

    def update(self, step: int, loss: Tensor) -> None:
        """Make a step down a loss."""
        set_learning_rate(self.optimizer, LEARNING_RATE, self.budget, warmup=0.03)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.encoder.parameters(), 1.0)
        self.optimizer.step()
        self.ema.update()
        if step % 200 == 0:
            self.budget.log(f"encoder loss {loss.item():.4f}")

    def save(self, draw_inputs: Callable[[], Tensor]) -> Encoder4Editing:
        """Write and return the moving average, with statistics of its own."""
        self.ema.copy_to(self.encoder)
        batches = (draw_inputs() for _ in range(30 if self.setup.on_gpu else 2))
        with self.setup.autocast():
            recompute_batch_norm(self.encoder, batches)
        save_weights(self.encoder.eval(), self.setup.out / "encoder.pt")
        self.budget.save()
        return self.encoder


def latent_loss(w_plus: Tensor, known: Tensor, labels: Tensor) -> Tensor:
    """Compute the distance of W+ (N, L, W_DIM) from known ones and labels.

    Labels are int64 (N, attributes), -1 where they are not visible.
    """
    distance = F.mse_loss(w_plus, known)
    amplitudes = LABEL_SCALE * CODES.amplitudes(w_plus.mean(1))
    return LATENT * distance + LABELS * classification_loss(amplitudes, labels, TABLE)


def augment(images: Tensor) -> Tensor:
    """Vary images as uploads vary, in the encoder's memory format."""
    return augment_as_uploads(images).contiguous(memory_format=torch.channels_last)


def run_latents(setup: Setup) -> None:
    """Run the stage `latents`; it continues from `encoder.pt`."""
    torch.manual_seed(SEED + 1)
    budget = setup.budget("latents")
    crops, _ = load_crops(setup)
    training = EncoderTraining(setup, budget, load_generator(setup).num_latents)
    latents = load_latents(setup, crops, training.encoder.num_latents)

    @torch.no_grad()
    def draw_batch() -> tuple[Tensor, Tensor, Tensor]:
        """Return augmented crops, their latents and their labels."""
        index = crops.draw(setup.batch)
        return augment(crops.images(index)), latents.encode(index), crops.labels[index]

    def compute_loss(inputs: Tensor, known: Tensor, labels: Tensor) -> Tensor:
        return latent_loss(training.encode(inputs), known, labels)

    compute_loss = budget.compile(compute_loss)
    for step in budget:
        training.update(step, compute_loss(*draw_batch()))
    training.save(lambda: draw_batch()[0])


def run(setup: Setup) -> None:
    """Run the stage `encoder`; it continues from `encoder.pt`."""
    torch.manual_seed(SEED)
    device = setup.device
    budget = setup.budget("encoder")
    crops, held_out = load_crops(setup)
    generator = load_generator(setup).to(device).eval().requires_grad_(False)
    generator.set_upsampling("folded")
    perceptor, latents = load_perceptor(setup), load_latents(setup, crops, generator.num_latents)
    training = EncoderTraining(setup, budget, generator.num_latents)
    weights = pixel_weights(generator.resolution, device)
    half = max(1, setup.batch // BATCH_SHARE // 2)

    def generate(w_plus: Tensor) -> Tensor:
        return generator.synthesis(generator.affine(w_plus), setup.dtype)

    def compute_loss(inputs: Tensor, targets: Tensor, known: Tensor, labels: Tensor) -> Tensor:
        w_plus = training.encode(inputs)
        close = reconstruction_loss(generate(w_plus), targets, weights, perceptor, setup)
        return close + latent_loss(w_plus, known, labels)

    @torch.no_grad()
    def draw_batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return augmented inputs, targets, latents and labels: crops, and generated images."""
        index, others, scenes = (crops.draw(half) for _ in range(3))
        combined = latents.combine(others, scenes)
        drawn = generate(combined).clamp(-1, 1)
        images = torch.cat([crops.images(index), resize(drawn, FACE_SIZE)])
        known = torch.cat([latents.encode(index), combined])
        labels = torch.cat([crops.labels[index], latents.combine_labels(others, scenes)])
        return augment(images), resize(images, generator.resolution), known, labels

    compute_loss = budget.compile(compute_loss)
    for step in budget:
        training.update(step, compute_loss(*draw_batch()))
    encoder = training.save(lambda: draw_batch()[0])
    report(setup, encoder, generator, held_out)


@torch.no_grad()
def report(setup: Setup, encoder: Encoder4Editing, generator: Generator, crops: Crops) -> None:
    """Print which labels inversions of held-out crops keep, and their PSNR; save some."""
    index = torch.arange(min(len(crops), 128), device=setup.device)
    w_plus = torch.cat([encoder(crops.images(some)) for some in index.split(32)])
    labels = crops.labels[index]
    right = TABLE.strongest(CODES.amplitudes(w_plus.mean(1))) == labels
    known = labels >= 0
    kept = (right & known).sum(0) / known.sum(0).clamp(min=1)
    by_name = zip(TABLE.names, kept.tolist(), strict=True)
    print("kept by attribute: " + ", ".join(f"{n} {x:.3f}" for n, x in by_name), flush=True)
    images = torch.cat(
        [generator.synthesis(generator.affine(w), setup.dtype) for w in w_plus.split(32)]
    )
    targets = resize(crops.images(index), generator.resolution)
    print(f"inversion PSNR: {format_psnr(images, targets)}", flush=True)
    save_grid(torch.cat([targets[:16], images[:16]]), 16, setup.out / "inversion.jpg")
