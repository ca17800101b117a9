"""StyleSpace statistics: mean and deviation of S, and fs3, the CLIP direction of every channel.

Source: Patashnik et al. 2021, "StyleCLIP", section 6 and appendix B; the official
`global_directions/GetCode.py` and `SingleChannel.py`. Only what follows the perturbed layer is
computed again for a channel: features and RGB in front of its block are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks.stylegan2 import Generator

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


@dataclass(frozen=True)
class Fs3Rule:
    """What fs3's numbers depend on, besides the networks.

    num_images: latents z that each channel is tried on. alpha: how far, in deviations. floor: see
    `channel_direction`. batch: pictures synthesised at once; as every channel has its own batches,
    a run that is split or resumed gives the same numbers. dtype: of the synthesis. preview: CLIP
    sees the skip's RGB at so many pixels in place of the whole picture, with what the layers above
    added to the unchanged picture (the change of that alone is lost); layers above the preview are
    tried at full size. None: the official rule. fused: the synthesis behind the perturbed layer
    runs on the server's GPU kernels, in float16. repeatable: a GPU's convolutions are what cuDNN
    advises, the same in every process, and not the fastest that each process finds by trying,
    which differ in their rounding.
    """

    num_images: int = 100
    alpha: float = 5.0
    seed: int = 1
    batch: int = 64
    floor: float = 0.0
    dtype: torch.dtype = torch.float32
    preview: int | None = None
    fused: bool = False
    repeatable: bool = False


def estimate_fs3(
    generator: Generator,
    encode_image: Callable[[Tensor], Tensor],
    style_mean: np.ndarray,
    style_std: np.ndarray,
    rule: Fs3Rule = Fs3Rule(),
    *,
    progress: Progress | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """fs3: for each convolution channel, the CLIP direction of mean - alpha std → mean + alpha std.

    Args:
        encode_image: pictures (N, 3, H, W) in [-1, 1] → CLIP features (N, D).
        style_mean, style_std: (S,) of `style_moments`. Channels with deviation 0 get a zero row.

    Returns:
        fs3 (R, D) float32, a row for each convolution channel in execution order (toRGB left
        out), and the mean CLIP change of each row (R,).
    """
    total = num_rows(generator)
    rows: dict[int, tuple[np.ndarray | None, float]] = {}
    for done, (row, direction, change) in enumerate(
        fs3_rows(generator, encode_image, style_mean, style_std, rule, range(total)), 1
    ):
        rows[row] = direction, change
        if progress:
            progress(done, total)
    width = max((len(d) for d, _ in rows.values() if d is not None), default=1)
    fs3 = np.zeros((total, width), np.float32)
    for row, (direction, _) in rows.items():
        if direction is not None:
            fs3[row] = direction
    return fs3, np.array([change for _, change in rows.values()], np.float32)


def num_rows(generator: Generator) -> int:
    """R: the channels of all convolutions, toRGB left out."""
    return sum(layer.channels for layer in generator.layers if not layer.to_rgb)


@torch.no_grad()
def fs3_rows(
    generator: Generator,
    encode_image: Callable[[Tensor], Tensor],
    style_mean: np.ndarray,
    style_std: np.ndarray,
    rule: Fs3Rule,
    wanted: Container[int],
) -> Iterator[tuple[int, np.ndarray | None, float]]:
    """Rows of fs3 among `wanted`, in order: (row, direction (D,) or None for a channel that never
    moves, mean CLIP change).

    Features and RGB in front of the perturbed layer's block are computed once for all channels.
    """
    device = next(generator.parameters()).device
    means = torch.from_numpy(style_mean).split(generator.style_channels)
    stds = torch.from_numpy(style_std).split(generator.style_channels)
    w = generator.mapping(_z(rule.num_images, generator.w_dim, rule.seed).to(device))
    styles = generator.affine(w[:, None].expand(-1, generator.num_latents, -1))
    tail = Tail(generator, encode_image, styles, rule)

    row = 0
    for index, layer in enumerate(generator.layers):
        if layer.to_rgb:
            continue
        for channel in range(layer.channels):
            row += 1
            if row - 1 not in wanted:
                continue
            mean, std = float(means[index][channel]), float(stds[index][channel])
            if std == 0:
                yield row - 1, None, 0.0
                continue
            ends = mean - rule.alpha * std, mean + rule.alpha * std
            features = tail.features(index, channel, ends)
            direction, change = channel_direction(features[None], rule.floor)
            yield row - 1, direction[0].cpu().numpy(), float(change[0])


class Tail:
    """The synthesis behind a perturbed layer. Layers are asked for in order: what enters the block
    of the last one is kept."""

    def __init__(
        self,
        generator: Generator,
        encode_image: Callable[[Tensor], Tensor],
        styles: Sequence[Tensor],
        rule: Fs3Rule,
    ) -> None:
        self.generator, self.encode, self.rule = generator, encode_image, rule
        self.styles = generator.flatten(styles)
        self.starts = [0, *accumulate(generator.style_channels)]
        self.images = len(self.styles)
        self.synthesis = self._fused() if rule.fused else self._plain
        self.reached = -1  # `before` is what enters block `reached + 1`
        self.before = self._unchanged(
            lambda part: generator.first_block(self._styles_of(part), rule.dtype)
        )
        self.top = len(generator.to_rgbs) - 1
        self.preview = self.top
        if rule.preview:
            sides = {2 ** (i + 3): i for i in range(len(generator.to_rgbs))}
            if rule.preview not in sides:
                raise ValueError(f"preview must be one of {', '.join(map(str, sides))}")
            self.preview = sides[rule.preview]
        self.detail = self._unchanged(self._detail)[0] if self.preview < self.top else None
        self.behind: tuple[int, Callable[[Tensor, Tensor], Tensor]] | None = None
        self.entering = self.before

    def _styles_of(self, part: Tensor) -> list[Tensor]:
        return self.generator.split(self.styles[part])

    def _unchanged(self, compute: Callable[[Tensor], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """`compute` of all unchanged pictures, in small batches of their numbers."""
        numbers = torch.arange(self.images, device=self.styles.device)
        batches = [compute(part) for part in numbers.split(min(self.rule.batch, 16))]
        return tuple(map(torch.cat, zip(*batches, strict=True)))

    def _detail(self, part: Tensor) -> tuple[Tensor]:
        """What the layers above the preview add, at the preview's size (n, 3, r, r)."""
        styles = self._styles_of(part)
        x, rgb = self.before[0][part], self.before[1][part]
        for block in range(self.top + 1):
            x, rgb = self.generator.block(block, x, rgb, styles)
            if block == self.preview:
                preview = rgb
        return (_reduce(rgb, self.rule.preview or rgb.shape[-1]) - preview,)

    def _plain(self, first: int, last: int, flat: Tensor, part: Tensor) -> Tensor:
        """RGB after block `last` of pictures `part` with the styles `flat` (n, S), from what is
        kept in front of block `first`."""
        styles = self.generator.split(flat)
        if first < 0:
            x, rgb = self.generator.first_block(styles, self.rule.dtype)
        else:
            x, rgb = self.before[0][part], self.before[1][part]
        for block in range(max(first, 0), last + 1):
            x, rgb = self.generator.block(block, x, rgb, styles)
        return rgb

    def _fused(self) -> Callable[[int, int, Tensor, Tensor], Tensor]:
        """`_plain` on the server's kernels."""
        from styleclip_server.engines.cuda.stylegan2 import Generator as Fused

        weights = {k: v.cpu().numpy() for k, v in self.generator.state_dict().items()}
        fused = Fused(weights, self.styles.device)

        def run(first: int, last: int, flat: Tensor, part: Tensor) -> Tensor:
            picture = self.rule.dtype if last == self.top else torch.float32
            if first < 0:
                return fused.synthesis(flat, last=last, picture=picture)
            features, skip = (kept.index_select(0, part) for kept in self.entering)
            return fused.synthesis(
                flat, first=first, last=last, features=features, skip=skip, picture=picture
            )

        return run

    def _behind(self, first: int) -> Callable[[Tensor, Tensor], Tensor]:
        """(changed styles (n, S), numbers of their pictures (n,)) → image features (n, D), from
        block `first` on; with the server's kernels as a CUDA graph, since they are launched
        faster than Python can."""
        last = self.preview if first <= self.preview else self.top

        def compute(flat: Tensor, part: Tensor) -> Tensor:
            rgb = self.synthesis(first, last, flat, part)
            if self.detail is not None and last == self.preview:
                rgb = rgb + self.detail[part]
            # The kernels clamp pictures of other types themselves.
            return self.encode(rgb.clamp(-1, 1) if rgb.dtype == torch.float32 else rgb)

        if not self.rule.fused:
            return compute
        from styleclip_server.engines.cuda.cuda_graphs import Graphed

        return Graphed(compute, self.styles.device)

    def features(self, index: int, channel: int, ends: tuple[float, float]) -> Tensor:
        """Image features (images, 2, D) with one channel of style `index` set to each of `ends`."""
        first = (index - 2) // 3  # -1: the 4x4 layers
        while self.reached < first - 1:
            self.reached, self.behind = self.reached + 1, None  # its graph has read `before`
            self.before = self._unchanged(
                lambda part: self.generator.block(
                    self.reached, self.before[0][part], self.before[1][part], self._styles_of(part)
                )
            )
        if self.behind is None or self.behind[0] != first:
            if self.rule.fused:  # once, as the kernels take them
                x, rgb = self.before
                self.entering = x.permute(0, 2, 3, 1).contiguous(), rgb.float().contiguous()
            self.behind = first, self._behind(first)
        # Whole pictures take more memory than the preview that the batch was chosen for.
        whole = self.preview < self.top and first > self.preview
        batch = max(1, self.rule.batch // 4) if whole else self.rule.batch
        values = torch.tensor(ends, device=self.styles.device).repeat_interleave(self.images)
        numbers = torch.arange(len(values), device=values.device) % self.images
        found = []
        for part, value in zip(numbers.split(batch), values.split(batch), strict=True):
            flat = self.styles[part]
            flat[:, self.starts[index] + channel] = value
            found.append(self.behind[1](flat, part).clone())
        return torch.cat(found).unflatten(0, (2, self.images)).transpose(0, 1)


def _reduce(pictures: Tensor, side: int) -> Tensor:
    """Bicubic with antialiasing, as CLIP's preprocessing reduces."""
    return F.interpolate(pictures, size=(side, side), mode="bicubic", antialias=True)
