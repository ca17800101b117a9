"""StyleSpace statistics: mean and deviation of S, and fs3, the CLIP direction of every channel.

Source: Patashnik et al. 2021, "StyleCLIP", section 6 and appendix B; the official
`global_directions/GetCode.py` and `SingleChannel.py`. Only what follows the perturbed layer is
computed again for a channel: features and RGB in front of its block are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_export.models.stylegan2 import Generator

Progress = Callable[[int, int], None]


def _z(samples: int, width: int, seed: int) -> Tensor:
    return torch.randn(samples, width, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def style_moments(
    generator: Generator, samples: int = 100_000, seed: int = 0, batch: int = 10_000
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and deviation of S, and the average latent, over w = mapping(z), z ~ N(0, 1).

    Returns:
        style_mean (S,), style_std (S,) (population deviation), w_avg (w_dim,), all float32.
    """
    device = next(generator.parameters()).device
    rng = torch.Generator().manual_seed(seed)
    total = square = w_total = torch.zeros((), dtype=torch.float64, device=device)
    done = 0
    while done < samples:
        n = min(batch, samples - done)
        z = torch.randn(n, generator.w_dim, generator=rng).to(device)
        w = generator.mapping(z)
        styles = generator.affine(w[:, None].expand(-1, generator.num_latents, -1))
        s = generator.flatten(styles).double()
        total = total + s.sum(0)
        square = square + s.square().sum(0)
        w_total = w_total + w.double().sum(0)
        done += n
    mean = total / samples
    std = (square / samples - mean.square()).clamp(min=0).sqrt()
    # Rounding leaves channels that never move with a deviation of about 1e-8.
    std[std < 1e-6] = 0
    return tuple(x.float().cpu().numpy() for x in (mean, std, w_total / samples))  # type: ignore[return-value]


def channel_direction(features: Tensor, floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """Features of a channel's two ends → its direction (official `GetFs`).

    Args:
        features: (channels, images, 2, D), image features at -alpha and +alpha, not normalised.
        floor: 0 is the official rule, every picture's change counts as a unit vector. Above 0, a
            change of the normalised features shorter than `floor` counts in proportion, and a
            channel whose changes are on average shorter than `floor` gets a zero row: it moves
            nothing that CLIP sees, and its direction would be noise.

    Returns:
        directions (channels, D), unit or zero; mean length of the changes (channels,).
    """
    unit = F.normalize(features.float(), dim=-1)
    change = unit[:, :, 1] - unit[:, :, 0]
    length = change.norm(dim=-1)
    direction = change / length.clamp(min=max(floor, 1e-12))[..., None]
    direction = F.normalize(direction.mean(1), dim=-1)
    mean_length = length.mean(1)
    direction[mean_length < floor] = 0
    return direction, mean_length


@torch.no_grad()
def estimate_fs3(
    generator: Generator,
    encode_image: Callable[[Tensor], Tensor],
    style_mean: np.ndarray,
    style_std: np.ndarray,
    *,
    num_images: int = 100,
    alpha: float = 5.0,
    seed: int = 1,
    batch: int = 64,
    floor: float = 0.0,
    dtype: torch.dtype = torch.float32,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """fs3: for each convolution channel, the CLIP direction of mean - alpha std → mean + alpha std.

    Args:
        encode_image: pictures (N, 3, H, W) in [-1, 1] → CLIP features (N, D).
        style_mean, style_std: (S,) of `style_moments`. Channels with deviation 0 get a zero row.
        num_images: latents z that each channel is tried on.
        batch: pictures synthesised at once.
        floor: see `channel_direction`.

    Returns:
        fs3 (R, D) float32, a row for each convolution channel in execution order (toRGB left
        out), and the mean CLIP change of each row (R,).
    """
    device = next(generator.parameters()).device
    means = torch.from_numpy(style_mean).split(generator.style_channels)
    stds = torch.from_numpy(style_std).split(generator.style_channels)
    w = generator.mapping(_z(num_images, generator.w_dim, seed).to(device))
    styles = generator.affine(w[:, None].expand(-1, generator.num_latents, -1))

    convs = [i for i, layer in enumerate(generator.layers) if not layer.to_rgb]
    total = sum(generator.layers[i].channels for i in convs)
    rows: list[Tensor] = []
    lengths: list[Tensor] = []
    done = 0
    x, rgb = generator.start(styles, dtype)
    for index in convs:
        block = (index - 2) // 3  # -1: the 4x4 layers
        if index > 2 and (index - 2) % 3 == 0:  # the first convolution of a later block
            x, rgb = generator.block(block - 1, x, rgb, styles)
        for channel in range(generator.layers[index].channels):
            mean, std = float(means[index][channel]), float(stds[index][channel])
            if std > 0:
                ends = (mean - alpha * std, mean + alpha * std)
                features = _ends(generator, encode_image, styles, (x, rgb), index, channel, ends,
                                 block, batch, dtype)  # fmt: skip
                row, length = channel_direction(features[None], floor)
                rows.append(row[0].cpu())
                lengths.append(length[0].cpu())
            else:
                rows.append(torch.tensor(0.0))
                lengths.append(torch.tensor(0.0))
            done += 1
            if progress:
                progress(done, total)
    width = max((r.numel() for r in rows), default=1)
    fs3 = torch.stack([r if r.dim() else torch.zeros(width) for r in rows])
    return fs3.numpy(), torch.stack(lengths).numpy()


def _ends(
    generator: Generator,
    encode_image: Callable[[Tensor], Tensor],
    styles: Sequence[Tensor],
    before: tuple[Tensor, Tensor],
    index: int,
    channel: int,
    ends: tuple[float, float],
    block: int,
    batch: int,
    dtype: torch.dtype,
) -> Tensor:
    """Image features (images, 2, D) with one channel of style `index` set to each of `ends`."""
    n = styles[0].shape[0]
    found = []
    for value in ends:
        parts = []
        for start in range(0, n, batch):
            part = slice(start, start + batch)
            edited = [s[part] for s in styles]
            edited[index] = edited[index].clone()
            edited[index][:, channel] = value
            if block < 0:
                x, rgb = generator.start(edited, dtype)
            else:
                x, rgb = generator.block(block, before[0][part], before[1][part], edited)
            for later in range(block + 1, len(generator.to_rgbs)):
                x, rgb = generator.block(later, x, rgb, edited)
            parts.append(encode_image(rgb.float()))
        found.append(torch.cat(parts))
    return torch.stack(found, 1)
