"""StyleGAN2 generator: mapping network, affine layers (W+ → StyleSpace S), synthesis from S.

Source: Karras et al. 2020, "Analyzing and Improving the Image Quality of StyleGAN" (weight
demodulation, section 2.2; skip architecture, section 4). Parameter names are those of
rosinality/stylegan2-pytorch, the format of the checkpoints of e4e and StyleCLIP, so that an
official state_dict loads with ``strict=True``.

Four rearrangements keep the result. Styles scale the activations and demodulation scales the
output, so that all images of a batch share one weight and no grouped convolution is needed. The
leaky ReLU's gain is applied per channel, to its inputs. Upsampling has two modes: one is fast on a
CPU, the other on a GPU, and training uses both. In float16 a style is divided by its largest
magnitude, so that the features stay finite.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from styleclip_contract.wire import W_DIM
from styleclip_networks.constants import (
    DEMODULATION_EPS,
    LEAKY_RELU_GAIN,
    LEAKY_RELU_SLOPE,
    PIXEL_NORM_EPS,
)
from styleclip_networks.resampling import Blur, Upsample, UpsamplingMode, fold_blur
from styleclip_networks.stylespace import style_layers


def config_f_channels(resolution: int) -> dict[int, int]:
    """Return the feature channels by resolution of the published FFHQ networks (config F)."""
    return feature_channels(resolution, channel_base=32768, channel_max=512)


def feature_channels(resolution: int, channel_base: int, channel_max: int) -> dict[int, int]:
    """Return min(channel_base / r, channel_max) for each resolution r from 4 to `resolution`."""
    powers = range(2, int(math.log2(resolution)) + 1)
    return {2**p: min(channel_base // 2**p, channel_max) for p in powers}


def leaky_relu(x: Tensor) -> Tensor:
    """Compute the leaky ReLU with slope 0.2, times sqrt(2)."""
    return F.leaky_relu(x, LEAKY_RELU_SLOPE) * LEAKY_RELU_GAIN


class EqualLinear(nn.Module):
    """Linear layer with equalized learning rate (Karras et al. 2018, section 4.1).

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
        return z * torch.rsqrt(z.square().mean(1, keepdim=True) + PIXEL_NORM_EPS)


class ModulatedConv(nn.Module):
    """Modulated convolution (StyleGAN2, section 2.2); toRGB's is 1x1 and not demodulated.

    With w' = w * scale: y = (w' ∗ (x * s)) * d * gain, where the demodulation coefficients are
    d_o = 1 / sqrt(sum_{i,kl} (w'_oikl s_i)^2 + eps).
    """

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
        self.upsample = upsample
        if upsample:
            self.blur = Blur(out_channels)
        self.upsampling: UpsamplingMode = "transposed"

    def forward(self, x: Tensor, style: Tensor, gain: float = 1.0) -> Tensor:
        """x (N, in, H, W), style (N, in) → (N, out, H, W), or (N, out, 2H, 2W) if upsampling."""
        if not self.demodulate:  # a 1x1 convolution to three channels: cheaper to scale the weight
            weight = self.weight[0, :, :, 0, 0] * self.scale
            weight = (weight * style[:, None]).to(x.dtype)  # (N, out, in)
            return (weight @ x.flatten(2)).unflatten(2, x.shape[2:])

        weight = self.weight[0] * self.scale
        squared_weights = weight.float().square().sum((2, 3)).T  # (in, out)
        dcoefs = torch.rsqrt(style.float().square() @ squared_weights + DEMODULATION_EPS) * gain
        if x.dtype == torch.float16:  # keep x * style below 65,504
            peak = style.abs().amax(1, keepdim=True).clamp(min=1e-6)
            style, dcoefs = style / peak, dcoefs * peak
        x = self._convolve(x * style.to(x.dtype)[:, :, None, None], weight)
        return x * dcoefs.to(x.dtype)[:, :, None, None]

    def _convolve(self, x: Tensor, weight: Tensor) -> Tensor:
        """Convolve without modulation; with upsampling and blur if this layer upsamples."""
        if not self.upsample:
            return F.conv2d(x, weight.to(x.dtype), padding=self.padding)
        if self.upsampling == "folded":
            weight = fold_blur(weight, self.blur.kernel).to(x.dtype)
            return F.pixel_shuffle(F.conv2d(x, weight, padding=self.padding), 2)
        return self.blur(F.conv_transpose2d(x, weight.transpose(0, 1).to(x.dtype), stride=2))


class NoiseInjection(nn.Module):
    """Adds the layer's constant noise image times the learned noise strength `weight`."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + (self.weight * LEAKY_RELU_GAIN * noise).to(x.dtype)


class BiasActivation(nn.Module):
    """Bias and leaky ReLU. `x` comes with the leaky ReLU's gain already applied."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        bias = (self.bias * LEAKY_RELU_GAIN).to(x.dtype)
        return F.leaky_relu(x + bias[None, :, None, None], LEAKY_RELU_SLOPE)


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
        x = self.conv(x, style, LEAKY_RELU_GAIN)
        if noise is not None:
            x = self.noise(x, noise)
        return self.activate(x)


class ToRGB(nn.Module):
    """Projects features to RGB and adds the upsampled RGB of the block before, the skip.

    RGB is computed in the dtype of the parameters, whatever the features' dtype.
    """

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
    """Constant noise images `noise_0` … `noise_{n-1}`, (1, 1, r, r) each."""

    def __init__(self, resolutions: Sequence[int]) -> None:
        super().__init__()
        for i, r in enumerate(resolutions):
            self.register_buffer(f"noise_{i}", torch.randn(1, 1, r, r))

    def __getitem__(self, i: int) -> Tensor:
        return getattr(self, f"noise_{i}")


class Generator(nn.Module):
    """StyleGAN2 generator. Images are RGB in about [-1, 1], not clamped.

    Args:
        resolution: side of the square image, a power of two from 32 to 1024.
        channels: feature channels by resolution; None means the published ones (config F).
        w_dim: width of z, w and W+.
        mapping_layers: fully connected layers of the mapping network.
        use_noise: add the constant noise (False: a generator trained without noise).
    """

    def __init__(
        self,
        resolution: int = 1024,
        channels: Mapping[int, int] | None = None,
        w_dim: int = W_DIM,
        mapping_layers: int = 8,
        use_noise: bool = True,
    ) -> None:
        super().__init__()
        log2 = int(math.log2(resolution))
        if 2**log2 != resolution or not 32 <= resolution <= 1024:
            raise ValueError(f"resolution must be a power of two from 32 to 1024: {resolution}")
        resolutions = [2**p for p in range(2, log2 + 1)]
        channels = channels or config_f_channels(resolution)
        self.resolution, self.w_dim, self.use_noise = resolution, w_dim, use_noise
        self.channels = {r: channels[r] for r in resolutions}
        self.layers = style_layers(self.channels)
        self.num_latents = 2 * log2 - 2

        mapping = (
            EqualLinear(w_dim, w_dim, lr_mul=0.01, activate=True) for _ in range(mapping_layers)
        )
        self.style = nn.Sequential(PixelNorm(), *mapping)

        self.input = ConstantInput(channels[4])
        self.conv1 = StyledConv(channels[4], channels[4], w_dim)
        self.to_rgb1 = ToRGB(channels[4], w_dim, upsample=False)
        self.convs = nn.ModuleList()
        self.to_rgbs = nn.ModuleList()
        for r in resolutions[1:]:
            self.convs.append(StyledConv(channels[r // 2], channels[r], w_dim, upsample=True))
            self.convs.append(StyledConv(channels[r], channels[r], w_dim))
            self.to_rgbs.append(ToRGB(channels[r], w_dim))
        self.noises = Noises([layer.resolution for layer in self.layers if not layer.to_rgb])

    @property
    def style_channels(self) -> tuple[int, ...]:
        """The channels of each style in execution order; they sum to S."""
        return tuple(layer.channels for layer in self.layers)

    @property
    def num_blocks(self) -> int:
        """The number of synthesis blocks, one for each resolution from 4 px on."""
        return len(self.to_rgbs) + 1

    def modulation(self, index: int) -> EqualLinear:
        """Return the affine layer of style `index`."""
        return self.get_submodule(self.layers[index].name).conv.modulation  # type: ignore[union-attr, return-value]

    def set_upsampling(self, mode: UpsamplingMode) -> None:
        """Select how the upsampling convolutions are computed."""
        for module in self.modules():
            if isinstance(module, ModulatedConv):
                module.upsampling = mode

    def mapping(self, z: Tensor) -> Tensor:
        """Map z (N, w_dim) ~ N(0, 1) to w (N, w_dim)."""
        return self.style(z)

    def affine(self, w_plus: Tensor) -> list[Tensor]:
        """Compute S from W+ (N, L, w_dim): a style (N, C_i) for each of `layers`."""
        return [self.modulation(i)(w_plus[:, s.latent]) for i, s in enumerate(self.layers)]

    def synthesis(
        self,
        styles: Sequence[Tensor],
        dtype: torch.dtype = torch.float32,
        features: Tensor | None = None,
    ) -> Tensor:
        """Synthesize images (N, 3, resolution, resolution), float32.

        Args:
            styles: S as returned by `affine`.
            dtype: of the features; demodulation coefficients and RGB stay float32.
            features: (N, C, r, r) to continue with in place of the block's own features of r px,
                r < resolution. The RGB of r px stays that of the styles.
        """
        return self._synthesize(styles, dtype, self.resolution, features)[1].float()

    def features(
        self, styles: Sequence[Tensor], resolution: int, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        """Synthesize the features (N, C, r, r) of one resolution r."""
        return self._synthesize(styles, dtype, resolution)[0]

    def _synthesize(
        self,
        styles: Sequence[Tensor],
        dtype: torch.dtype,
        last: int,
        features: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Run the blocks up to that of `last` px; return its features and RGB."""
        x, rgb = self.block(0, self.constant_features(styles[0].shape[0], dtype), None, styles)
        for index in range(1, last.bit_length() - 2):
            if features is not None and x.shape[-1] == features.shape[-1]:
                x = features.to(dtype)
            x, rgb = self.block(index, x, rgb, styles)
        return x, rgb

    def constant_features(self, n: int, dtype: torch.dtype) -> Tensor:
        """Return the learned constant for `n` images, (n, C, 4, 4): the input of block 0."""
        return self.input.input.to(dtype).expand(n, -1, -1, -1)

    def block(
        self, index: int, x: Tensor, rgb: Tensor | None, styles: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Run the block of 4 * 2^index px; all but block 0 upsample.

        Args:
            x, rgb: output of the block before; for block 0 `constant_features` and None.
            styles: S as returned by `affine`.

        Returns:
            Features (N, C, r, r) and RGB (N, 3, r, r).
        """
        if index == 0:
            x = self.conv1(x, styles[0], self._noise(0))
            return x, self.to_rgb1(x, styles[1], None)
        conv, style = 2 * index - 1, 3 * index - 1
        x = self.convs[conv - 1](x, styles[style], self._noise(conv))
        x = self.convs[conv](x, styles[style + 1], self._noise(conv + 1))
        return x, self.to_rgbs[index - 1](x, styles[style + 2], rgb)

    def _noise(self, i: int) -> Tensor | None:
        return self.noises[i] if self.use_noise else None

    def forward(self, w_plus: Tensor) -> Tensor:
        """Synthesize images (N, 3, resolution, resolution) from W+ (N, L, w_dim)."""
        return self.synthesis(self.affine(w_plus))

    def flatten_styles(self, styles: Sequence[Tensor]) -> Tensor:
        """Concatenate the styles of all layers: (N, S)."""
        return torch.cat(list(styles), dim=1)

    def split_styles(self, flat: Tensor) -> list[Tensor]:
        """Split (N, S) into the style of each layer."""
        return list(flat.split(self.style_channels, dim=1))
