"""The latent codes of avatars: amplitudes of values, laid out in W.

An avatar is a vector of amplitudes p (61 values of 10 attributes), one-hot within each attribute
for a plain avatar. W gives each value a block of dimensions: w = sum_v p_v u_v, with fixed random
signs u_v. `models.py` connects each StyleSpace channel to one block.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.avatars.attributes import ATTRIBUTES, NUM_VALUES, OFFSETS, SIZES

W_DIM = 512
BLOCK = W_DIM // NUM_VALUES  # 8 dimensions of W for each value
MAPPING_SHARPNESS = 5.0  # inverse temperature of `target_of_z`


def value_basis() -> Tensor:
    """Return u_v, random signs on each value's block of W, float32 (NUM_VALUES, W_DIM)."""
    signs = torch.randint(0, 2, (NUM_VALUES, BLOCK), generator=torch.Generator().manual_seed(7))
    u = torch.zeros(NUM_VALUES, W_DIM)
    for v in range(NUM_VALUES):
        u[v, v * BLOCK : (v + 1) * BLOCK] = signs[v] * 2.0 - 1.0
    return u


def one_hot(labels: Tensor) -> Tensor:
    """Convert labels, int64 (N, attributes), to amplitudes, float32 (N, NUM_VALUES)."""
    return torch.cat([F.one_hot(labels[:, a], n) for a, n in enumerate(SIZES)], 1).float()


def strongest_values(p: Tensor) -> Tensor:
    """Convert amplitudes (N, NUM_VALUES) to labels (N, attributes)."""
    return torch.stack([g.argmax(1) for g in p.split(SIZES, 1)], 1)


def target_of_z(z: Tensor) -> Tensor:
    """Return the amplitudes (N, NUM_VALUES) that the mapping network learns for z (N, W_DIM).

    They are a sharp softmax over each attribute's coordinates of z / rms(z), biased by the prior.
    """
    z = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
    parts = []
    for a, attribute in enumerate(ATTRIBUTES):
        coordinates = _columns(z, a)
        weights = torch.tensor([v.weight for v in attribute.values], device=z.device)
        parts.append(F.softmax(MAPPING_SHARPNESS * (coordinates + 0.75 * weights.log()), 1))
    return torch.cat(parts, 1)


def _columns(x: Tensor, a: int) -> Tensor:
    return x[:, OFFSETS[a] : OFFSETS[a] + SIZES[a]]


def perturb_amplitudes(
    labels: Tensor, num_latents: int, noise: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Draw amplitudes as edits leave them: a new value added, the old one still half there.

    The image to draw stays a plain avatar, so the generator learns to decide for one value instead
    of a ghost of two; colors blend. Layers differ a little, as they do in W+.

    Args:
        labels: int64 (N, attributes), the avatars to draw.
        num_latents: L.
        noise: 0 gives plain one-hot amplitudes, 1 the full perturbation.

    Returns:
        Amplitudes (N, L, NUM_VALUES); the labels of the image to blend in (N, attributes), equal to
        `labels` except in at most one color; the weight of that image (N,), from 0 to 1.
    """
    n, device = labels.shape[0], labels.device
    p = one_hot(labels)
    other = labels.clone()

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, 1, device=device) * (high - low) + low

    def chance(probability: float) -> Tensor:
        return (torch.rand(n, 1, device=device) < probability * noise).float()

    blending = torch.rand(n, device=device) < 0.25 * noise
    blended_attribute = torch.randint(0, len(ATTRIBUTES), (n,), device=device)
    blend = torch.zeros(n, device=device)
    groups = []
    for a, attribute in enumerate(ATTRIBUTES):
        group = _columns(p, a)
        amplitude = torch.where(chance(0.5) > 0, uniform(0.6, 2.8), torch.ones_like(uniform(0, 1)))
        rival = torch.randint(1, SIZES[a], (n,), device=device)
        rival = (labels[:, a] + rival) % SIZES[a]
        rival_group = F.one_hot(rival, SIZES[a]).float()
        ratio = uniform(0.0, 0.75) * chance(0.6)
        if attribute.is_color:
            blends = (blended_attribute == a) & blending
            mixed = torch.rand(n, 1, device=device)
            ratio = torch.where(blends[:, None], mixed, ratio * 0.6)
            other[:, a] = torch.where(blends, rival, other[:, a])
            blend = torch.where(blends, _blend_weight(ratio[:, 0]), blend)
        result = group * amplitude + rival_group * ratio * amplitude
        rest = (1 - group) * (1 - rival_group)
        result = result + rest * torch.randn_like(group) * 0.15 * noise
        # Edits also push the attribute's other values below zero.
        result = result - (1 - group) * uniform(0.0, 0.7) * chance(0.3)
        groups.append(result)
    p = torch.cat(groups, 1)[:, None].expand(-1, num_latents, -1)
    jitter = torch.randn(n, num_latents, NUM_VALUES, device=device) * 0.12 * noise
    return p + jitter, other, blend


def _blend_weight(ratio: Tensor) -> Tensor:
    """Return a smooth step of the rival's share of both amplitudes, which is at most 1/2."""
    share = ratio / (1 + ratio)
    x = ((share - 0.3) / 0.4).clamp(0, 1)
    return x * x * (3 - 2 * x)
