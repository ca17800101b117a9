"""StyleGAN2 generator: mapping network, affine layers (W+ → StyleSpace S) and synthesis from S.

Sources: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (weight
demodulation, section 2.2; skip architecture, section 4); Wu et al. 2021, "StyleSpace Analysis"
(S is every modulation vector, those of toRGB included). Parameter names are those of
rosinality/stylegan2-pytorch, which e4e and StyleCLIP publish their checkpoints in, so that an
official state_dict loads with ``strict=True``.

Departures change the arithmetic's order and not its result. The style scales the activations and
demodulation scales the output, so that all pictures of a batch share one weight and no grouped
convolution is needed; toRGB, with three filters only, scales those. The leaky ReLU's gain is given
to what it is applied to, a factor for each channel in place of one for each pixel. The up-sampling
convolution comes in two equal forms, see `Upsampling`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

BLUR = (1.0, 3.0, 3.0, 1.0)  # the binomial filter of every re-sampling
DEMODULATION_EPS = 1e-8
SLOPE, GAIN = 0.2, math.sqrt(2.0)  # of the leaky ReLU; the gain keeps unit variance


def config_f_channels(resolution: int) -> dict[int, int]:
    """Channels by resolution of the published FFHQ networks (config F): 512 up to 64 px."""
    return channels_by_base(resolution, base=32768, maximum=512)


def channels_by_base(resolution: int, base: int, maximum: int) -> dict[int, int]:
    """min(base / r, maximum) channels at each resolution r from 4 to `resolution`."""
    powers = range(2, int(math.log2(resolution)) + 1)
    return {2**p: min(base // 2**p, maximum) for p in powers}


Upsampling = Literal["transposed", "folded", "phased"]
"""The forms of "twice as large, then the 3x3 convolution". `transposed`: a stride-2 transposed
convolution and a depthwise blur (least arithmetic, best on a CPU). `folded`: both in one dense 3x3
convolution and a pixel shuffle (four times its arithmetic, a single pass). `phased`: the transposed
convolution as a dense 2x2 one and a pixel shuffle (16/9 of its arithmetic), then the blur as sums
that a compiler fuses with what follows."""


@dataclass(frozen=True)
class StyleLayer:
    """One modulation vector of StyleSpace.

    `latent` is the row of W+ that feeds it: a toRGB shares its row with the convolution that
    follows it.
    """

    name: str  # the module, "convs.3"
    styleclip_name: str  # "conv1_resolution_16"
    resolution: int
    channels: int
    to_rgb: bool
    latent: int


def _binomial_kernel(gain: float = 1.0) -> Tensor:
    row = torch.tensor(BLUR)
    kernel = torch.outer(row, row)
    return kernel / kernel.sum() * gain


def _double(x: Tensor, dim: int) -> Tensor:
    """`Upsample` along one dimension of (N, C, H, W), as sums that a compiler fuses."""
    before, after = x.narrow(dim, 0, x.shape[dim] - 1), x.narrow(dim, 1, x.shape[dim] - 1)
    zero = torch.zeros_like(x.narrow(dim, 0, 1))
    even = 0.75 * x + 0.25 * torch.cat([zero, before], dim)
    odd = 0.75 * x + 0.25 * torch.cat([after, zero], dim)
    return torch.stack([even, odd], dim + 1).flatten(dim, dim + 1)


def fold_blur(weight: Tensor, kernel: Tensor) -> Tensor:
    """Folds "stride-2 transposed convolution, then blur" into one convolution's weight.

    weight (out, in, 3, 3), kernel (4, 4) → (4 * out, in, 3, 3), for `F.pixel_shuffle(…, 2)`.

    The two filters make one 6x6 filter F = weight * kernel; output pixel 2j + a sees only the taps
    F[a + 4 - 2k], k = 0, 1, 2, of input pixels j - 1 + k: four 3x3 filters, one for each phase.
    """
    out_channels, in_channels = weight.shape[:2]
    full = F.conv2d(weight.reshape(-1, 1, 3, 3), kernel.to(weight.dtype)[None, None], padding=3)
    full = full.reshape(out_channels, in_channels, 3, 2, 3, 2).flip(2, 4)  # taps, phase a, …, b
    return full.permute(0, 3, 5, 1, 2, 4).reshape(4 * out_channels, in_channels, 3, 3)


def split_phases(weight: Tensor) -> Tensor:
    """A stride-2 transposed convolution's weight (out, in, 3, 3) as that of a 2x2 convolution with
    padding 1, (4 * out, in, 2, 2), for `F.pixel_shuffle(…, 2)`.

    Along each dimension output 2j sees taps 2 and 0 of inputs j - 1 and j, output 2j + 1 only tap 1
    of input j. H inputs give 2H + 2 outputs, of which the last is 0.
    """
    pairs = torch.zeros(2, 2, 3, dtype=weight.dtype, device=weight.device)  # phase, tap, old tap
    pairs[0, 0, 2] = pairs[0, 1, 0] = pairs[1, 1, 1] = 1
    split = torch.einsum("oiyx,apy,bqx->oabipq", weight, pairs, pairs)
    return split.reshape(-1, weight.shape[1], 2, 2)


def _blur(x: Tensor, dim: int) -> Tensor:
    """`Blur` along one dimension of (N, C, 2H + 2, 2W + 2), whose last row is 0, as sums."""
    n = x.shape[dim] - 2
    padded = torch.cat([torch.zeros_like(x.narrow(dim, 0, 1)), x], dim)
    taps = [padded.narrow(dim, k, n) * (b / 4) for k, b in enumerate(BLUR)]
    return taps[0] + taps[1] + taps[2] + taps[3]


def leaky_relu(x: Tensor) -> Tensor:
    """Leaky ReLU with slope 0.2, times sqrt(2)."""
    return F.leaky_relu(x, SLOPE) * GAIN


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate (Karras et al. 2018, section 4.1).

    (N, in) → (N, out). Weights are stored as N(0, 1) / lr_mul and scaled when used.
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        *,
        bias_init: float = 0.0,
        lr_mul: float = 1.0,
        activate: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim) / lr_mul)
        self.bias = nn.Parameter(torch.full((out_dim,), float(bias_init)))
        self.scale = lr_mul / math.sqrt(in_dim)
        self.lr_mul = lr_mul
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        x = F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)
        return leaky_relu(x) if self.activate else x


class PixelNorm(nn.Module):
    """z / rms(z), over the channels."""

    def forward(self, z: Tensor) -> Tensor:
        return z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8)


class Blur(nn.Module):
    """The 4x4 binomial filter with gain 4, after a stride-2 transposed convolution.

    (N, C, 2H+1, 2W+1) → (N, C, 2H, 2W).
    """

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.register_buffer("kernel", _binomial_kernel(gain=4.0))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.kernel.to(x.dtype).expand(self.channels, 1, 4, 4)
        return F.conv2d(x, weight, padding=1, groups=self.channels)


class Upsample(nn.Module):
    """Doubles a picture with the binomial filter: (N, 3, H, W) → (N, 3, 2H, 2W)."""

    kernel: Tensor
    folded = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", _binomial_kernel(gain=4.0))

    def forward(self, x: Tensor) -> Tensor:
        if self.folded:
            return _double(_double(x, 2), 3)
        # Zeros between the pixels, then the filter, is a transposed convolution; the filter is
        # symmetric, so it needs no flip.
        weight = self.kernel.to(x.dtype).expand(3, 1, 4, 4)
        return F.conv_transpose2d(x, weight, stride=2, padding=1, groups=3)


class ModulatedConv(nn.Module):
    """Modulated convolution (StyleGAN2, section 2.2); toRGB's is 1x1 and without demodulation.

    x (N, in, H, W), style (N, in) → `gain` times (N, out, H, W), or (N, out, 2H, 2W).
    With w' = w * scale: y = (w' ∗ (x * s)) * d,  d_o = 1 / sqrt(sum_{i,kl} (w'_oikl s_i)^2 + eps).
    In float16, whose largest number is 65,504, x is scaled by s / max|s| and d makes up for it;
    filters scaled by the style, and d, are computed in float32 first.
    """

    ready: tuple[Tensor, Tensor] | None = None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        w_dim: int,
        *,
        demodulate: bool = True,
        upsample: bool = False,
    ) -> None:
        super().__init__()
        shape = (1, out_channels, in_channels, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.randn(shape))
        self.modulation = EqualLinear(w_dim, in_channels, bias_init=1.0)
        self.scale = 1.0 / math.sqrt(in_channels * kernel_size**2)
        self.demodulate = demodulate
        self.padding = kernel_size // 2
        if upsample:
            self.blur = Blur(out_channels)
        self.upsample = upsample
        self.form: Upsampling = "transposed"

    def forward(self, x: Tensor, style: Tensor, gain: float = 1.0) -> Tensor:
        if not self.demodulate:
            weight = self.weight[0, :, :, 0, 0] * self.scale
            filters = (weight * style[:, None]).to(x.dtype)  # (N, out, in)
            return (filters @ x.flatten(2)).unflatten(2, x.shape[2:])
        filters, energies = self.ready or self._filters(x.dtype)
        # Linear in s^2, so the sum over the taps is taken once for the whole batch.
        energy = style.float().square() @ energies
        factor = torch.rsqrt(energy + DEMODULATION_EPS) * gain
        if x.dtype == torch.float16:
            peak = style.abs().amax(1, keepdim=True).clamp(min=1e-6)
            style, factor = style / peak, factor * peak
        x = x * style.to(x.dtype)[:, :, None, None]
        if self.upsample and self.form == "transposed":
            x = self.blur(F.conv_transpose2d(x, filters, stride=2))
        else:
            x = F.conv2d(x, filters, padding=self.padding)
            if self.upsample:
                x = F.pixel_shuffle(x, 2)
            if self.upsample and self.form == "phased":
                x = _blur(_blur(x, 2), 3)
        return x * factor.to(x.dtype)[:, :, None, None]

    def _filters(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The convolution's weight in the chosen form, and the sums (in, out) of w'^2."""
        weight = self.weight[0] * self.scale
        energies = weight.float().square().sum((2, 3)).T
        if self.upsample and self.form == "folded":
            weight = fold_blur(weight, self.blur.kernel)
        elif self.upsample and self.form == "phased":
            weight = split_phases(weight)
        elif self.upsample:
            weight = weight.transpose(0, 1)
        return weight.to(dtype), energies

    @torch.no_grad()
    def prepare(self, dtype: torch.dtype) -> None:
        """Computes once what depends on the weight alone: it must not change any more."""
        filters, energies = self._filters(dtype)
        self.ready = filters.contiguous(memory_format=torch.channels_last), energies.contiguous()


class NoiseInjection(nn.Module):
    """Adds `weight` times the layer's constant noise picture, times the activation's gain."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + (self.weight * GAIN * noise).to(x.dtype)


class BiasActivation(nn.Module):
    """Bias and leaky ReLU, whose gain `x` brings along."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(x + (self.bias * GAIN).to(x.dtype)[None, :, None, None], SLOPE)


class StyledConv(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, w_dim: int, *, upsample: bool = False
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv(in_channels, out_channels, 3, w_dim, upsample=upsample)
        self.noise = NoiseInjection()
        self.activate = BiasActivation(out_channels)

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        x = self.conv(x, style, GAIN)
        if noise is not None:
            x = self.noise(x, noise)
        return self.activate(x)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to RGB without demodulation, added to the up-sampled skip, which
    keeps the parameters' type, whatever that of the activations is."""

    def __init__(self, in_channels: int, w_dim: int, *, upsample: bool = True) -> None:
        super().__init__()
        if upsample:
            self.upsample = Upsample()
        self.conv = ModulatedConv(in_channels, 3, 1, w_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, style: Tensor, skip: Tensor | None) -> Tensor:
        rgb = self.conv(x, style).to(self.bias.dtype) + self.bias
        return rgb if skip is None else rgb + self.upsample(skip)


class ConstantInput(nn.Module):
    """The learned 4x4 constant that the synthesis starts from."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))


class Noises(nn.Module):
    """Constant noise pictures `noise_0` … `noise_{n-1}`, (1, 1, r, r) each."""

    def __init__(self, resolutions: Sequence[int]) -> None:
        super().__init__()
        for i, r in enumerate(resolutions):
            self.register_buffer(f"noise_{i}", torch.randn(1, 1, r, r))

    def __getitem__(self, i: int) -> Tensor:
        return getattr(self, f"noise_{i}")


class Generator(nn.Module):
    """StyleGAN2 generator of any resolution from 32 to 1024.

    Args:
        resolution: side of the square picture, a power of two.
        channels: channels by resolution; None takes the published widths (config F).
        w_dim: width of z, w and W+.
        mapping_layers: fully connected layers of the mapping network.
        use_noise: add the constant noise (False: a generator trained without noise).

    Pictures are RGB in about [-1, 1], not clamped.
    """

    def __init__(
        self,
        resolution: int = 1024,
        channels: Mapping[int, int] | None = None,
        w_dim: int = 512,
        mapping_layers: int = 8,
        use_noise: bool = True,
    ) -> None:
        super().__init__()
        log2 = int(math.log2(resolution))
        if 2**log2 != resolution or not 32 <= resolution <= 1024:
            raise ValueError(f"resolution must be a power of two from 32 to 1024: {resolution}")
        width = dict(channels or config_f_channels(resolution))
        self.resolution, self.channels, self.w_dim = resolution, width, w_dim
        self.use_noise = use_noise
        self.num_latents = 2 * log2 - 2

        mapping: list[nn.Module] = [PixelNorm()]
        for _ in range(mapping_layers):
            mapping.append(EqualLinear(w_dim, w_dim, lr_mul=0.01, activate=True))
        self.style = nn.Sequential(*mapping)

        self.input = ConstantInput(width[4])
        self.conv1 = StyledConv(width[4], width[4], w_dim)
        self.to_rgb1 = ToRGB(width[4], w_dim, upsample=False)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        noise_resolutions = [4]
        for p in range(3, log2 + 1):
            r = 2**p
            self.convs.append(StyledConv(width[r // 2], width[r], w_dim, upsample=True))
            self.convs.append(StyledConv(width[r], width[r], w_dim))
            self.to_rgbs.append(ToRGB(width[r], w_dim))
            noise_resolutions += [r, r]
        self.noises = Noises(noise_resolutions)
        self.layers = self._layers()

    def _layers(self) -> tuple[StyleLayer, ...]:
        c = self.channels
        layers = [
            StyleLayer("conv1", "conv1_resolution_4", 4, c[4], False, 0),
            StyleLayer("to_rgb1", "toRGB_resolution_4", 4, c[4], True, 1),
        ]
        for i in range(len(self.to_rgbs)):
            r = 2 ** (i + 3)
            first = 2 * i + 1
            layers += [
                StyleLayer(f"convs.{2 * i}", f"conv0_resolution_{r}", r, c[r // 2], False, first),
                StyleLayer(
                    f"convs.{2 * i + 1}", f"conv1_resolution_{r}", r, c[r], False, first + 1
                ),
                StyleLayer(f"to_rgbs.{i}", f"toRGB_resolution_{r}", r, c[r], True, first + 2),
            ]
        return tuple(layers)

    @property
    def style_channels(self) -> tuple[int, ...]:
        """Channels of every modulation vector, in execution order; they sum to S."""
        return tuple(layer.channels for layer in self.layers)

    def modulation(self, index: int) -> EqualLinear:
        """The affine layer of style `index`."""
        return self.get_submodule(self.layers[index].name).conv.modulation  # type: ignore[union-attr, return-value]

    def upsample_as(self, form: Upsampling) -> None:
        """Chooses the form of the up-sampling layers; all compute the same picture."""
        for module in self.modules():
            if isinstance(module, ModulatedConv):
                module.form, module.ready = form, None
            elif isinstance(module, Upsample):
                module.folded = form != "transposed"

    def prepare(self, dtype: torch.dtype) -> None:
        """For a generator that only synthesises in `dtype` from now on: filters are computed once
        and kept with channels last. Its weights and device must not change any more; `upsample_as`
        undoes it."""
        for module in self.modules():
            if isinstance(module, ModulatedConv) and module.demodulate:
                module.prepare(dtype)

    def mapping(self, z: Tensor) -> Tensor:
        """z (N, w_dim) ~ N(0, 1) → w (N, w_dim)."""
        return self.style(z)

    def affine(self, w_plus: Tensor) -> list[Tensor]:
        """W+ (N, L, w_dim) → StyleSpace S: a (N, C_i) style for each of `layers`."""
        return [self.modulation(i)(w_plus[:, s.latent]) for i, s in enumerate(self.layers)]

    def synthesis(self, styles: Sequence[Tensor], dtype: torch.dtype = torch.float32) -> Tensor:
        """S (see `affine`) → picture (N, 3, resolution, resolution).

        `dtype` is the activations'; demodulation factors are always computed in float32.
        """
        x, rgb = self.start(styles, dtype)
        for block in range(len(self.to_rgbs)):
            x, rgb = self.block(block, x, rgb, styles)
        return rgb.float()

    def start(self, styles: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """The 4x4 layers: (features, RGB)."""
        n = styles[0].shape[0]
        x = self.input.input.to(dtype).expand(n, -1, -1, -1)
        x = self.conv1(x, styles[0], self._noise(0))
        return x, self.to_rgb1(x, styles[1], None)

    def block(
        self, block: int, x: Tensor, rgb: Tensor, styles: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """One doubling of the resolution, number `block` from 0 (8 px)."""
        s = 2 + 3 * block
        x = self.convs[2 * block](x, styles[s], self._noise(2 * block + 1))
        x = self.convs[2 * block + 1](x, styles[s + 1], self._noise(2 * block + 2))
        return x, self.to_rgbs[block](x, styles[s + 2], rgb)

    def _noise(self, i: int) -> Tensor | None:
        return self.noises[i] if self.use_noise else None

    def forward(self, w_plus: Tensor) -> Tensor:
        """W+ (N, L, w_dim) → picture (N, 3, resolution, resolution)."""
        return self.synthesis(self.affine(w_plus))

    def flatten(self, styles: Sequence[Tensor]) -> Tensor:
        """S as a list → (N, S)."""
        return torch.cat(list(styles), dim=1)

    def split(self, flat: Tensor) -> list[Tensor]:
        """(N, S) → S as a list."""
        return list(flat.split(self.style_channels, dim=1))


def truncate(w_plus: Tensor, w_avg: Tensor, psi: float, cutoff: int | None = None) -> Tensor:
    """Truncation trick (StyleGAN, appendix B): w_avg + psi * (w - w_avg).

    Args:
        w_plus: (N, L, w_dim).
        w_avg: (w_dim,) or (L, w_dim).
        psi: 1 keeps w, 0 gives the average.
        cutoff: only the first `cutoff` rows are truncated; None means all.
    """
    truncated = w_avg + psi * (w_plus - w_avg)
    if cutoff is None:
        return truncated
    return torch.cat([truncated[:, :cutoff], w_plus[:, cutoff:]], dim=1)
