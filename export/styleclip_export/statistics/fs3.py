"""fs3: for every StyleSpace channel, the direction in which it moves CLIP's image features.

Source: Patashnik et al. 2021, "StyleCLIP", section 6 and appendix B; the official
`global_directions/GetCode.py` (whose latents have the truncation 0.7 on all layers) and
`SingleChannel.py`.

Each channel is set to mean - 5 std and to mean + 5 std in some random images, and CLIP encodes
both. The channel's row of fs3 is the normalized mean of the changes of CLIP's features. An edit
compares the direction between two texts with these rows to select the channels that it moves.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_export.statistics.resynthesis import BlockEncoder, Resynthesis
from styleclip_networks.stylegan2 import Generator


@dataclass(frozen=True)
class Fs3Settings:
    """Everything that fs3 depends on, except the networks.

    Attributes:
        num_images: random images in which each channel is changed.
        alpha: how far, in standard deviations.
        seed: of the images' latents.
        truncation: psi of the images' latents and of the deviations.
        batch: images synthesized at once. Every channel has its own batches, so the numbers do not
            depend on how the rows are split or resumed.
        floor: see `channel_direction`.
        dtype: of the synthesis and of CLIP.
        preview: side in pixels of the RGB that CLIP sees, or None for the full image (the official
            rule). What the layers above the preview add to the unchanged image is added; only its
            change is lost. Channels of layers above the preview are evaluated at full size.
        use_kernels: run the synthesis on the server's CUDA kernels, in float16.
    """

    num_images: int = 100
    alpha: float = 5.0
    seed: int = 1
    truncation: float = 0.7
    batch: int = 64
    floor: float = 0.0
    dtype: torch.dtype = torch.float32
    preview: int | None = None
    use_kernels: bool = False


class Fs3Row(NamedTuple):
    """A row of fs3.

    Attributes:
        row: its index.
        direction: (D,) float32, a unit vector or zero; None for a channel that never changes.
        change: mean length of the change of CLIP's normalized features.
    """

    row: int
    direction: np.ndarray | None
    change: float


def fs3_channels(generator: Generator) -> list[tuple[int, int]]:
    """List (style index, channel) of every row of fs3.

    They are the channels of all convolutions in execution order, without those of toRGB.
    """
    return [
        (index, channel)
        for index, layer in enumerate(generator.layers)
        if not layer.to_rgb
        for channel in range(layer.channels)
    ]


def channel_direction(features: Tensor, floor: float = 0.0) -> tuple[Tensor, Tensor]:
    """Compute the directions of channels from CLIP's features (official `GetFs`).

    Args:
        features: (channels, images, 2, D), not normalized, with the channel at mean - alpha std
            and at mean + alpha std.
        floor: 0 is the official rule, by which each image's change counts as a unit vector. Above
            0, a change shorter than `floor` counts in proportion, and a channel whose mean change
            is shorter than `floor` gets a zero row: its direction would be noise.

    Returns:
        directions (channels, D), unit or zero; mean lengths of the changes (channels,).
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
def fs3_rows(
    generator: Generator,
    encode_image: Callable[[Tensor], Tensor],
    style_mean: np.ndarray,
    style_std: np.ndarray,
    settings: Fs3Settings,
    rows: Container[int],
) -> Iterator[Fs3Row]:
    """Yield the requested `rows` of fs3 in order.

    Args:
        encode_image: images (N, 3, H, W) in [-1, 1] → CLIP features (N, D).
        style_mean, style_std: (S,) of `style_moments`.
    """
    device = next(generator.parameters()).device
    rng = torch.Generator().manual_seed(settings.seed)
    z = torch.randn(settings.num_images, generator.w_dim, generator=rng)
    w = generator.mapping(z.to(device))
    styles = generator.affine(w[:, None].expand(-1, generator.num_latents, -1))
    styles = _truncate(generator, styles, style_mean, settings.truncation)
    resynthesis = Resynthesis(
        generator,
        encode_image,
        styles,
        batch=settings.batch,
        dtype=settings.dtype,
        preview=settings.preview,
        use_kernels=settings.use_kernels,
    )
    requested = [
        (row, index, channel)
        for row, (index, channel) in enumerate(fs3_channels(generator))
        if row in rows
    ]
    offsets = [0, *accumulate(generator.style_channels)]
    inputs = resynthesis.first_inputs()
    for block, channels in groupby(requested, lambda r: generator.layers[r[1]].block):
        inputs = resynthesis.advance(inputs, block)
        # The encoder ends with the call: a CUDA graph's memory is free for the next block.
        yield from _rows_of_block(
            resynthesis.encoder(inputs),
            [(row, offsets[index] + channel) for row, index, channel in channels],
            style_mean,
            style_std,
            settings,
        )


def _truncate(
    generator: Generator, styles: Sequence[Tensor], style_mean: np.ndarray, psi: float
) -> list[Tensor]:
    """Move styles towards their mean: S is affine in w, so this is the truncation of w."""
    mean = torch.from_numpy(style_mean).to(styles[0])
    centers = generator.split_styles(mean[None])
    return [center + psi * (s - center) for s, center in zip(styles, centers, strict=True)]


def _rows_of_block(
    encoder: BlockEncoder,
    positions: Sequence[tuple[int, int]],
    style_mean: np.ndarray,
    style_std: np.ndarray,
    settings: Fs3Settings,
) -> Iterator[Fs3Row]:
    """Yield the rows of channels of one block; `positions`: (row, index in S) of each."""
    for row, position in positions:
        mean, std = float(style_mean[position]), float(style_std[position])
        if std == 0:
            yield Fs3Row(row, None, 0.0)
            continue
        values = mean - settings.alpha * std, mean + settings.alpha * std
        features = encoder.encode_changed(position, values)
        direction, change = channel_direction(features[None], settings.floor)
        yield Fs3Row(row, direction[0].cpu().numpy(), float(change[0]))
