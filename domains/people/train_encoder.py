"""Train people's e4e: from crops to their latents, and to reconstructions of the same person.

A crop's latent is known, and so is that of an image of the generator; the distance of
reconstructions, with an identity term, decides what the latent leaves open (Tov et al. 2021).

As in `latent_codes.py`, `p` are amplitudes (N, L, values) and `u` is the basis (values, W_DIM).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.people.attributes import TABLE
from domains.people.codes import CODES, add_scene
from domains.people.crops import Crops, load_crops
from domains.people.models import load_generator, load_perceptor, load_scene_encoder
from domains.people.reconstruction import pixel_weights, reconstruction_loss
from domains.training.augmentations import augment_as_uploads
from domains.training.batch_norm import recompute_batch_norm
from domains.training.checkpoints import Ema, load_weights, save_weights
from domains.training.images import resize
from domains.training.networks import build_encoder
from domains.training.sample_grids import format_psnr, save_grid
from domains.training.setup import SEED, Setup, set_learning_rate
from styleclip_contract.wire import FACE_SIZE, W_DIM
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.stylegan2 import Generator

LEARNING_RATE = 1e-3
LATENT = 5.0  # weight of the distance from known latents
BATCH_SHARE = 4  # a batch is this much smaller than those of regression


def run(setup: Setup) -> None:
    """Run the stage `encoder`; it continues from `encoder.pt`."""
    torch.manual_seed(SEED)
    device = setup.device
    budget = setup.budget("encoder")
    crops, held_out = load_crops(setup)
    generator = load_generator(setup).to(device).eval().requires_grad_(False)
    generator.set_upsampling("folded")
    scene_encoder = load_scene_encoder(setup.out, crops.scenes.shape[1]).to(device)
    perceptor = load_perceptor(setup)
    encoder = build_encoder(generator.num_latents)
    load_weights(encoder, setup.out / "encoder.pt")
    encoder.to(device, memory_format=torch.channels_last)
    weights, u = pixel_weights(generator.resolution, device), CODES.basis().to(device)
    ema = Ema(encoder, 0.998)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    half = max(1, setup.batch // BATCH_SHARE // 2)

    def generate(w_plus: Tensor) -> Tensor:
        return generator.synthesis(generator.affine(w_plus), setup.dtype)

    def compute_loss(inputs: Tensor, targets: Tensor, w: Tensor) -> Tensor:
        with setup.autocast():
            w_plus = encoder(inputs)
        w_plus = w_plus.float()
        latent = F.mse_loss(w_plus, w[:, None].expand_as(w_plus))
        images = generate(w_plus)
        return LATENT * latent + reconstruction_loss(images, targets, weights, perceptor, setup)

    @torch.no_grad()
    def draw_batch() -> tuple[Tensor, Tensor, Tensor]:
        """Return augmented inputs, targets and latents: crops, and images of the generator."""
        index = crops.draw(half)
        p = TABLE.one_hot(crops.complete_labels(index)) @ u
        known = add_scene(p[:, None], scene_encoder(crops.scenes[index]))[:, 0]
        random = generator.mapping(torch.randn(half, W_DIM, device=device))
        drawn = generate(random[:, None].expand(-1, generator.num_latents, -1)).clamp(-1, 1)
        images = torch.cat([crops.images(index), resize(drawn, FACE_SIZE)])
        inputs = augment_as_uploads(images).contiguous(memory_format=torch.channels_last)
        return inputs, resize(images, generator.resolution), torch.cat([known, random])

    compute_loss = budget.compile(compute_loss)
    encoder.train()
    for step in budget:
        set_learning_rate(optimizer, LEARNING_RATE, budget, warmup=0.03)
        loss = compute_loss(*draw_batch())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        ema.update()
        if step % 200 == 0:
            budget.log(f"encoder loss {loss.item():.4f}")
    ema.copy_to(encoder)
    with setup.autocast():
        recompute_batch_norm(encoder, (draw_batch()[0] for _ in range(30 if setup.on_gpu else 2)))
    encoder.eval()
    save_weights(encoder, setup.out / "encoder.pt")
    budget.save()
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
