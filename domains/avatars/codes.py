"""The latent code of an avatar: value amplitudes p, laid out in W and read by chosen channels of S.

An avatar is a vector of amplitudes p (61 values over 10 attributes), one-hot within an attribute
for a plain avatar. W gives each value a block of dimensions: w = sum_v p_v u_v, with fixed random
signs u_v. In the generator each modulated channel of S listens to one value's block only, which
makes StyleSpace disentangled by construction: this is a choice of sparsity, the architecture is
StyleGAN2's. Channels of toRGB do not listen at all, since StyleCLIP's global directions leave
toRGB out: whatever they carried, no edit could move.

`noisy_amplitudes` blurs p as edits do (the new value pushed in, the old one half there, layers
not quite agreeing), while the picture to draw stays a plain avatar. So the generator learns to
decide for one value, in place of a ghost of two. Colours blend.
"""

from __future__ import annotations

import torch
from attributes import ATTRIBUTES, NUM_VALUES, OFFSETS, SIZES
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks.stylegan2 import Generator, channels_by_base

W_DIM = 512
BLOCK = W_DIM // NUM_VALUES  # 8 dimensions of W a value
RESOLUTION = 256
CHANNELS = channels_by_base(RESOLUTION, base=8192, maximum=256)
MAPPING_TEMPERATURE = 5.0
COLOUR_VALUES = [
    OFFSETS[a] + v for a, x in enumerate(ATTRIBUTES) if x.colour for v in range(SIZES[a])
]


def basis() -> Tensor:
    """(NUM_VALUES, W_DIM): u_v, random signs on the value's own block."""
    signs = torch.randint(0, 2, (NUM_VALUES, BLOCK), generator=torch.Generator().manual_seed(7))
    u = torch.zeros(NUM_VALUES, W_DIM)
    for v in range(NUM_VALUES):
        u[v, v * BLOCK : (v + 1) * BLOCK] = signs[v] * 2.0 - 1.0
    return u


def one_hot(labels: Tensor) -> Tensor:
    """labels (N, attributes) int64 → amplitudes (N, NUM_VALUES)."""
    return torch.cat([F.one_hot(labels[:, a], n) for a, n in enumerate(SIZES)], 1).float()


def labels_of(p: Tensor) -> Tensor:
    """Amplitudes (N, NUM_VALUES) → the strongest value of each attribute (N, attributes)."""
    return torch.stack([g.argmax(1) for g in p.split(SIZES, 1)], 1)


def target_of_z(z: Tensor) -> Tensor:
    """Amplitudes that the mapping network learns for z (N, W_DIM): a sharp softmax over each
    attribute's own coordinates of z / rms(z), biased to the values' prior."""
    z = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
    parts = []
    for a, attribute in enumerate(ATTRIBUTES):
        own = z[:, OFFSETS[a] : OFFSETS[a] + SIZES[a]]
        weights = torch.tensor([v.weight for v in attribute.values], device=z.device)
        parts.append(F.softmax(MAPPING_TEMPERATURE * (own + 0.75 * weights.log()), 1))
    return torch.cat(parts, 1)


def listening(generator: Generator) -> dict[int, list[int]]:
    """Which value each modulated channel listens to: style index → values, channel by channel.

    Up to 64 px a layer has one channel for each value; above, for each colour.
    """
    table = {}
    for i, layer in enumerate(generator.layers):
        if layer.to_rgb:
            continue
        if layer.resolution <= 64:
            table[i] = list(range(NUM_VALUES))
        elif layer.channels >= len(COLOUR_VALUES):
            table[i] = COLOUR_VALUES
    return table


def affine_masks(generator: Generator) -> dict[int, Tensor]:
    """Style index → (channels, W_DIM) mask of the affine weights that may differ from zero."""
    blocks = basis().abs()
    table = listening(generator)
    masks = {}
    for i, layer in enumerate(generator.layers):
        mask = torch.zeros(layer.channels, W_DIM)
        for channel, value in enumerate(table.get(i, [])):
            mask[channel] = blocks[value]
        masks[i] = mask
    return masks


def new_generator() -> Generator:
    """An untrained generator whose affine layers are sparse as described above."""
    generator = Generator(RESOLUTION, CHANNELS, W_DIM, use_noise=False)
    u, table = basis(), listening(generator)
    with torch.no_grad():
        for i, layer in enumerate(generator.layers):
            affine = generator.modulation(i)
            affine.weight.zero_()
            for channel, value in enumerate(table.get(i, [])):
                affine.weight[channel] = 0.5 * u[value] / BLOCK / affine.scale
            if layer.to_rgb:
                generator.get_submodule(layer.name).conv.weight.mul_(0.3)
    return generator


def sub(x: Tensor, a: int) -> Tensor:
    """The columns of attribute number `a`."""
    return x[:, OFFSETS[a] : OFFSETS[a] + SIZES[a]]


def noisy_amplitudes(labels: Tensor, rows: int, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Amplitudes as edits leave them.

    Args:
        labels: (N, attributes) the avatars to draw.
        rows: latents L.
        noise: 0 gives plain one-hot amplitudes, 1 the full disturbance.

    Returns:
        p (N, rows, NUM_VALUES); the runner-up labels (N, attributes), equal to `labels` but for
        colours that blend; the blend (N,) in [0, 1] towards the runner-up picture.
    """
    n, device = labels.shape[0], labels.device
    p = one_hot(labels)
    other = labels.clone()

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(n, 1, device=device) * (high - low) + low

    def chance(probability: float) -> Tensor:
        return (torch.rand(n, 1, device=device) < probability * noise).float()

    blending = torch.rand(n, device=device) < 0.25 * noise
    blended = torch.randint(0, len(ATTRIBUTES), (n,), device=device)
    blend = torch.zeros(n, device=device)
    groups = []
    for a, attribute in enumerate(ATTRIBUTES):
        group = sub(p, a)
        amplitude = torch.where(chance(0.5) > 0, uniform(0.6, 2.8), torch.ones_like(uniform(0, 1)))
        winner = group * amplitude
        rival = torch.randint(1, SIZES[a], (n,), device=device)
        rival = (labels[:, a] + rival) % SIZES[a]
        rival_one_hot = F.one_hot(rival, SIZES[a]).float()
        ratio = uniform(0.0, 0.75) * chance(0.6)
        if attribute.colour:
            mine = (blended == a) & blending
            mixed = torch.rand(n, 1, device=device)
            ratio = torch.where(mine[:, None], mixed, ratio * 0.6)
            other[:, a] = torch.where(mine, rival, other[:, a])
            share = (ratio / (1 + ratio))[:, 0]  # from 0 to 1/2
            smooth = ((share - 0.3) / 0.4).clamp(0, 1)
            smooth = smooth * smooth * (3 - 2 * smooth)
            blend = torch.where(mine, smooth, blend)
        winner = winner + rival_one_hot * ratio * amplitude
        rest = (1 - group) * (1 - rival_one_hot)
        winner = winner + rest * torch.randn_like(group) * 0.15 * noise
        # Edits also push all the other values of the attribute below zero.
        winner = winner - (1 - group) * uniform(0.0, 0.7) * chance(0.3)
        groups.append(winner)
    p = torch.cat(groups, 1)[:, None].expand(-1, rows, -1)
    jitter = torch.randn(n, rows, NUM_VALUES, device=device) * 0.12 * noise
    return p + jitter, other, blend
