"""Trains the avatars' e4e encoder: renders with known latents in, W+ out.

The true latent of a render is known, so the encoder regresses it; a picture loss through the
frozen generator is not needed. Pictures are disturbed as uploads are: shifted, rescaled, on other
backgrounds, noisy, blurred, compressed to blocks.
"""

from __future__ import annotations

from pathlib import Path

import torch
from codes import basis, labels_of, one_hot
from renders import Composer, sample_labels
from torch import Tensor
from torch.nn import functional as F
from train_generator import load_generator
from training import Budget, Ema, cosine, load, psnr, save, save_grid

from styleclip_networks.e4e import Encoder4Editing

NUM_LATENTS = 14
SIZES = {"widths": (32, 64, 112, 192), "depths": (2, 2, 4, 2), "style_width": 64}


def new_encoder() -> Encoder4Editing:
    return Encoder4Editing(NUM_LATENTS, **SIZES)


@torch.no_grad()
def disturb(pictures: Tensor) -> Tensor:
    """Pictures (N, 3, 256, 256) in [-1, 1] as users upload them; a quarter stays untouched."""
    n, device = len(pictures), pictures.device

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, 1, 1, 1, device=device) * (high - low) + low

    colour = torch.rand(n, 3, 1, 1, device=device) * 2 - 1
    # Multiplying keeps the dark lines; good enough for pale backgrounds.
    tint = torch.where(uniform(0, 1) < 0.2, 1 - 0.25 * (colour + 1) / 2, torch.ones_like(colour))
    background = ((pictures + 1) / 2 * tint) * 2 - 1

    scale = 1 + 0.06 * torch.randn(n, device=device).clamp(-2, 2)
    shift = 0.04 * torch.randn(n, 2, device=device).clamp(-2, 2)
    theta = torch.zeros(n, 2, 3, device=device)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, list(pictures.shape), align_corners=False)
    moved = F.grid_sample(background, grid, padding_mode="border", align_corners=False)

    small = F.interpolate(moved, scale_factor=0.5, mode="area")
    blurred = F.interpolate(small, scale_factor=2.0, mode="bilinear")
    moved = torch.lerp(moved, blurred, (uniform(0, 1) < 0.25).float())
    moved = moved * uniform(0.9, 1.08) + uniform(-0.06, 0.06)
    moved = moved + torch.randn_like(moved) * uniform(0, 0.06)
    keep = (uniform(0, 1) < 0.25).float()
    return torch.lerp(moved, pictures, keep).clamp(-1, 1)


def run(layers: Path, out: Path, device: torch.device, budget: Budget, batch: int) -> None:
    """The stage `encoder`; continues from `out/encoder.pt`."""
    torch.manual_seed(budget.seed)
    encoder = new_encoder().to(device, memory_format=torch.channels_last)
    if load(encoder, out / "encoder.pt"):
        budget.rate = 0.5
    composer = Composer(layers, device)
    rng = torch.Generator().manual_seed(budget.seed + 1)
    u = basis().to(device)
    ema = Ema(encoder, 0.998)
    rate = 1e-3 * budget.rate
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=rate, weight_decay=0.01)
    amp = torch.autocast(device.type, torch.bfloat16, enabled=budget.compile)

    def step_loss(pictures: Tensor, target: Tensor) -> Tensor:
        with amp:
            w_plus = encoder(pictures)
        return F.mse_loss(w_plus.float(), target[:, None].expand(-1, NUM_LATENTS, -1)) * 10

    if budget.compile:
        step_loss = torch.compile(step_loss)  # type: ignore[assignment]
    encoder.train()
    for step in budget:
        for group in optimizer.param_groups:
            group["lr"] = rate * cosine(budget.fraction, warmup=0.03)
        with torch.no_grad():
            labels = sample_labels(batch, rng, device)
            pictures = disturb(composer(labels)).contiguous(memory_format=torch.channels_last)
            target = one_hot(labels) @ u
        loss = step_loss(pictures, target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        ema.update()
        if step % 200 == 0:
            budget.log(f"encoder loss {loss.item():.4f}")
    ema.copy_to(encoder)
    # The averaged weights need statistics of their own.
    norms = [m for m in encoder.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    with torch.no_grad():
        for _ in range(30 if budget.compile else 2):
            with amp:
                encoder(disturb(composer(sample_labels(batch, rng, device))))
    for norm in norms:
        norm.momentum = 0.1
    encoder.eval()
    save(encoder, out / "encoder.pt")
    report(encoder, composer, out, device)


@torch.no_grad()
def report(encoder: Encoder4Editing, composer: Composer, out: Path, device: torch.device) -> None:
    """Attributes read right and PSNR of inversions, on fresh renders."""
    labels = sample_labels(256, torch.Generator().manual_seed(321), device)
    true = composer(labels)
    w_plus = torch.cat([encoder(x) for x in true.split(64)])
    u = basis().to(device)
    amplitudes = (w_plus.mean(1) @ u.T) / u.square().sum(1)
    right = (labels_of(amplitudes) == labels).float().mean(0)
    print("read right by attribute:", [f"{x:.3f}" for x in right.tolist()], flush=True)
    generator = load_generator(out).to(device).eval()
    generator.upsample_as("folded")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    made = torch.cat([generator.synthesis(generator.affine(w), dtype) for w in w_plus.split(64)])
    print("inversion PSNR:", psnr(made, true), flush=True)
    save_grid(torch.cat([true[:16], made[:16]]), 16, out / "inversion.jpg")
