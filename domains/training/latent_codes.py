"""Latent codes of labeled images: amplitudes of values, laid out in W.

An image of given labels is a vector of amplitudes p of all values, one-hot within each attribute. W
gives each value a block of dimensions: w = sum_v p_v u_v, with fixed random signs u_v. Affine
layers that connect a StyleSpace channel to one block make StyleSpace disentangled by construction
(`networks.SparseAffine`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.training.attributes import AttributeTable
from styleclip_contract.wire import W_DIM

MAPPING_SHARPNESS = 5.0  # inverse temperature of `target_of_z`


class LatentCodes:
    """The layout of W for a table of attributes.

    Args:
        table: the attributes.
        block: dimensions of W for each value; W's last dimensions may be free for other things.
    """

    def __init__(self, table: AttributeTable, block: int) -> None:
        self.table, self.block = table, block
        self.used = table.num_values * block  # dimensions of W

    def basis(self) -> Tensor:
        """Return u_v, random signs on each value's block of W, float32 (num_values, W_DIM)."""
        generator = torch.Generator().manual_seed(7)
        signs = torch.randint(0, 2, (self.table.num_values, self.block), generator=generator)
        u = torch.zeros(self.table.num_values, W_DIM)
        for v, block in enumerate(signs * 2.0 - 1.0):
            u[v, v * self.block : (v + 1) * self.block] = block
        return u

    def amplitudes(self, w: Tensor) -> Tensor:
        """Return the amplitudes (..., num_values) of latents (..., W_DIM)."""
        return w @ self.basis().to(w.device).T / self.block

    def target_of_z(self, z: Tensor) -> Tensor:
        """Return the amplitudes (N, num_values) that the mapping network learns for z (N, W_DIM).

        They are a sharp softmax over each attribute's coordinates of z / rms(z), biased by the
        prior.
        """
        z = z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)
        parts = []
        for a, attribute in enumerate(self.table.attributes):
            coordinates = self._columns(z, a)
            weights = torch.tensor([v.weight for v in attribute.values], device=z.device)
            parts.append(F.softmax(MAPPING_SHARPNESS * (coordinates + 0.75 * weights.log()), 1))
        return torch.cat(parts, 1)

    def _columns(self, x: Tensor, a: int) -> Tensor:
        start = self.table.offsets[a]
        return x[:, start : start + self.table.sizes[a]]

    def perturb(
        self, labels: Tensor, num_latents: int, noise: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw amplitudes as edits leave them: a new value added, the old one still half there.

        The image to draw stays the plain one, so the generator learns to decide for one value
        instead of a ghost of two; colors blend. Layers differ a little, as they do in W+.

        Args:
            labels: int64 (N, attributes), the images to draw.
            num_latents: L.
            noise: 0 gives plain one-hot amplitudes, 1 the full perturbation.

        Returns:
            Amplitudes (N, L, num_values); the labels of the image to blend in (N, attributes),
            equal to `labels` except in at most one color; the weight of that image (N,), 0 to 1.
        """
        n, device = labels.shape[0], labels.device
        p = self.table.one_hot(labels)
        other = labels.clone()

        def uniform(low: float, high: float) -> Tensor:
            return torch.rand(n, 1, device=device) * (high - low) + low

        def chance(probability: float) -> Tensor:
            return (torch.rand(n, 1, device=device) < probability * noise).float()

        blending = torch.rand(n, device=device) < 0.25 * noise
        blended_attribute = torch.randint(0, len(self.table.attributes), (n,), device=device)
        blend = torch.zeros(n, device=device)
        groups = []
        for a, attribute in enumerate(self.table.attributes):
            group = self._columns(p, a)
            amplitude = torch.where(
                chance(0.5) > 0, uniform(0.6, 2.8), torch.ones_like(uniform(0, 1))
            )
            rival = torch.randint(1, self.table.sizes[a], (n,), device=device)
            rival = (labels[:, a] + rival) % self.table.sizes[a]
            rival_group = F.one_hot(rival, self.table.sizes[a]).float()
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
        jitter = torch.randn(n, num_latents, self.table.num_values, device=device) * 0.12 * noise
        return p + jitter, other, blend


def _blend_weight(ratio: Tensor) -> Tensor:
    """Return a smooth step of the rival's share of both amplitudes, which is at most 1/2."""
    share = ratio / (1 + ratio)
    x = ((share - 0.3) / 0.4).clamp(0, 1)
    return x * x * (3 - 2 * x)
