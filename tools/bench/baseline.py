"""The baseline: the networks as their official code runs them, in plain eager PyTorch.

StyleGAN2 after the native (no CUDA extension) branch that StyleCLIP and e4e publish: a weight for
every picture of the batch and grouped convolutions (Karras et al. 2020, section 2.2), and
re-sampling by zero insertion, padding and a dense filter. CLIP reads both texts' prompts at all 77
tokens for every edit. e4e is IR-SE50 as published, which `Encoder4Editing` already is.

They read the parameters of `styleclip_networks`, so both sides compute the same picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks import CLIP, Generator
from styleclip_networks.stylegan2 import ModulatedConv, StyledConv, ToRGB
from styleclip_server.pipeline import directions
from styleclip_server.pipeline.prompt_templates import TEMPLATES
from styleclip_server.pipeline.tokenizer import tokenize


def upfirdn2d(x: Tensor, kernel: Tensor, up: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Zeros between the pixels, zeros around them, then the filter: (N, C, H, W) → the same."""
    n, c, h, w = x.shape
    x = x.reshape(n * c, h, 1, w, 1)
    x = F.pad(x, [0, up - 1, 0, 0, 0, up - 1]).reshape(n * c, 1, h * up, w * up)
    x = F.conv2d(F.pad(x, [*pad, *pad]), kernel.flip(0, 1)[None, None])
    return x.reshape(n, c, x.shape[2], x.shape[3])


def modulated_conv(conv: ModulatedConv, x: Tensor, style: Tensor) -> Tensor:
    """x (N, in, H, W), style (N, in) → (N, out, H, W), or twice as large."""
    n, c, h, w = x.shape
    weight = conv.scale * conv.weight * style[:, None, :, None, None]  # a filter for each picture
    if conv.demodulate:
        weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + 1e-8)
    x = x.reshape(1, n * c, h, w)
    if conv.upsample:
        weight = weight.transpose(1, 2).reshape(n * c, -1, 3, 3)
        x = F.conv_transpose2d(x, weight, stride=2, groups=n)
    else:
        weight = weight.reshape(-1, *weight.shape[2:])
        x = F.conv2d(x, weight, padding=conv.padding, groups=n)
    x = x.reshape(n, -1, x.shape[2], x.shape[3])
    return upfirdn2d(x, conv.blur.kernel, pad=(1, 1)) if conv.upsample else x


def styled_conv(layer: StyledConv, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
    """Convolution, noise, bias, leaky ReLU."""
    x = modulated_conv(layer.conv, x, style)
    if noise is not None:
        x = x + layer.noise.weight * noise
    return F.leaky_relu(x + layer.activate.bias[:, None, None], 0.2) * 2**0.5


def to_rgb(layer: ToRGB, x: Tensor, style: Tensor, skip: Tensor | None) -> Tensor:
    """Features → RGB, added to the doubled picture of the resolution below."""
    rgb = modulated_conv(layer.conv, x, style) + layer.bias
    if skip is None:
        return rgb
    return rgb + upfirdn2d(skip, layer.upsample.kernel, up=2, pad=(2, 1))


def synthesis(generator: Generator, styles: Sequence[Tensor]) -> Tensor:
    """StyleSpace → picture (N, 3, resolution, resolution), as `Generator.synthesis`."""
    g, at = generator, iter(styles)
    noises = [g.noises[i] if g.use_noise else None for i in range(1 + len(g.convs))]
    x = g.input.input.repeat(len(styles[0]), 1, 1, 1)
    x = styled_conv(g.conv1, x, next(at), noises[0])
    rgb = to_rgb(g.to_rgb1, x, next(at), None)
    for i, rgb_layer in enumerate(g.to_rgbs):
        for j in (2 * i, 2 * i + 1):
            x = styled_conv(g.convs[j], x, next(at), noises[j + 1])  # type: ignore[arg-type]
        rgb = to_rgb(rgb_layer, x, next(at), rgb)  # type: ignore[arg-type]
    return rgb


def picture(generator: Generator, w_plus: Tensor, delta: Tensor) -> Tensor:
    """W+ (N, L, w_dim), offset (N, S) → (N, H, W, 3) uint8."""
    moved = generator.flatten(generator.affine(w_plus)) + delta
    image = synthesis(generator, generator.split(moved))
    return ((image.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def embeddings(clip: CLIP, texts: Sequence[str], vocabulary: Tensor | None = None) -> np.ndarray:
    """Class embeddings (texts, D): every text in 79 prompts of 77 tokens, each time anew."""
    tokens = torch.from_numpy(tokenize([t.format(text) for text in texts for t in TEMPLATES]))
    tokens = tokens.long() if vocabulary is None else vocabulary[tokens.long()].long()
    features = clip.encode_text(tokens).numpy()
    return np.stack([directions.class_embedding(part) for part in np.split(features, len(texts))])
