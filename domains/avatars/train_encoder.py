"""Train the avatars' e4e encoder: from augmented renders to their known latents in W+.

The latent of a render is known, so the encoder regresses it; no image loss through the generator
is needed.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.avatars.attributes import TABLE
from domains.avatars.models import CODES, NUM_LATENTS, build_encoder, load_generator
from domains.avatars.renders import LAYERS_FILE, Composer, sample_labels
from domains.training.augmentations import augment_as_uploads
from domains.training.batch_norm import recompute_batch_norm
from domains.training.checkpoints import Ema, load_weights, save_weights
from domains.training.sample_grids import format_psnr, save_grid
from domains.training.setup import SEED, Setup, set_learning_rate
from styleclip_networks.e4e import Encoder4Editing

LEARNING_RATE = 1e-3


def run(setup: Setup) -> None:
    """Run the stage `encoder`; it continues from `encoder.pt`."""
    torch.manual_seed(SEED)
    device = setup.device
    budget = setup.budget("encoder")
    encoder = build_encoder().to(device, memory_format=torch.channels_last)
    load_weights(encoder, setup.out / "encoder.pt")
    composer = Composer(setup.data / LAYERS_FILE, device)
    rng = torch.Generator().manual_seed(SEED + 1)
    u = CODES.basis().to(device)
    ema = Ema(encoder, 0.998)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=LEARNING_RATE, weight_decay=0.01)
    autocast = setup.autocast()

    def compute_loss(images: Tensor, w: Tensor) -> Tensor:
        with autocast:
            w_plus = encoder(images)
        return F.mse_loss(w_plus.float(), w[:, None].expand(-1, NUM_LATENTS, -1)) * 10

    compute_loss = budget.compile(compute_loss)
    encoder.train()
    for step in budget:
        set_learning_rate(optimizer, LEARNING_RATE, budget, warmup=0.03)
        with torch.no_grad():
            labels = sample_labels(setup.batch, rng, device)
            images = augment_as_uploads(composer(labels))
            images = images.contiguous(memory_format=torch.channels_last)
            w = TABLE.one_hot(labels) @ u
        loss = compute_loss(images, w)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        ema.update()
        if step % 200 == 0:
            budget.log(f"encoder loss {loss.item():.4f}")
    ema.copy_to(encoder)
    batches = (
        augment_as_uploads(composer(sample_labels(setup.batch, rng, device)))
        for _ in range(30 if setup.on_gpu else 2)
    )
    with autocast:
        recompute_batch_norm(encoder, batches)
    encoder.eval()
    save_weights(encoder, setup.out / "encoder.pt")
    budget.save()
    report(encoder, composer, setup)


@torch.no_grad()
def report(encoder: Encoder4Editing, composer: Composer, setup: Setup) -> None:
    """Print how many attributes are recognized, and the PSNR of inversions of new renders."""
    labels = sample_labels(256, torch.Generator().manual_seed(321), setup.device)
    images = composer(labels)
    w_plus = torch.cat([encoder(x) for x in images.split(64)])
    amplitudes = CODES.amplitudes(w_plus.mean(1))
    correct = (TABLE.strongest(amplitudes) == labels).float().mean(0)
    print("correct by attribute:", [f"{x:.3f}" for x in correct.tolist()], flush=True)
    generator = load_generator(setup.out).to(setup.device).eval()
    generator.set_upsampling("folded")
    inversions = torch.cat(
        [generator.synthesis(generator.affine(w), setup.dtype) for w in w_plus.split(64)]
    )
    print("inversion PSNR:", format_psnr(inversions, images), flush=True)
    save_grid(torch.cat([images[:16], inversions[:16]]), 16, setup.out / "inversion.jpg")
