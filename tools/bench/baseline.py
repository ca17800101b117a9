"""The baseline: the networks as their official code runs them, in plain eager PyTorch.

StyleGAN2 follows the native branch (no CUDA extension) that StyleCLIP and e4e publish: a modulated
weight per image and grouped convolutions (Karras et al. 2020, section 2.2), and upsampling by zero
insertion, padding and a dense filter. CLIP encodes all prompts of both texts at 77 tokens for every
edit. `Encoder4Editing` is already as published.

The parameters are those of `styleclip_networks`, so both compute the same image.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from styleclip_networks.clip import CLIP
from styleclip_networks.stylegan2 import (
    DEMODULATION_EPS,
    Generator,
    ModulatedConv,
    StyledConv,
    ToRGB,
    leaky_relu,
)
from styleclip_server.pipeline import directions
from styleclip_server.pipeline.prompt_templates import TEMPLATES
from styleclip_server.pipeline.tokenizer import tokenize


def upfirdn2d(x: Tensor, kernel: Tensor, up: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
    """Insert zeros by `up`, pad with zeros, then filter with `kernel`; x is (N, C, H, W)."""
    n, c, h, w = x.shape
    x = x.reshape(n * c, h, 1, w, 1)
    x = F.pad(x, [0, up - 1, 0, 0, 0, up - 1]).reshape(n * c, 1, h * up, w * up)
    x = F.conv2d(F.pad(x, [*pad, *pad]), kernel.flip(0, 1)[None, None])
    return x.reshape(n, c, x.shape[2], x.shape[3])


def modulated_conv(conv: ModulatedConv, x: Tensor, style: Tensor) -> Tensor:
    """Convolve: x (N, in, H, W), style (N, in) → (N, out, H, W), or (N, out, 2H, 2W)."""
    n, c, h, w = x.shape
    weight = conv.scale * conv.weight * style[:, None, :, None, None]
    if conv.demodulate:
        dcoefs = torch.rsqrt(weight.pow(2).sum([2, 3, 4], keepdim=True) + DEMODULATION_EPS)
        weight = weight * dcoefs
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
    """Convolve, then add noise and bias and apply leaky ReLU."""
    x = modulated_conv(layer.conv, x, style)
    if noise is not None:
        x = x + layer.noise.weight * noise
    return leaky_relu(x + layer.activate.bias[:, None, None])


def to_rgb(layer: ToRGB, x: Tensor, style: Tensor, skip: Tensor | None) -> Tensor:
    """Convert features to RGB and add the upsampled RGB of the resolution below."""
    rgb = modulated_conv(layer.conv, x, style) + layer.bias
    if skip is None:
        return rgb
    return rgb + upfirdn2d(skip, layer.upsample.kernel, up=2, pad=(2, 1))


def synthesis(generator: Generator, styles: Sequence[Tensor]) -> Tensor:
    """Synthesize S to images (N, 3, resolution, resolution), as `Generator.synthesis`."""
    x = generator.input.input.repeat(len(styles[0]), 1, 1, 1)
    rgb, conv_index = None, 0
    for layer, style in zip(generator.layers, styles, strict=True):
        module = generator.get_submodule(layer.name)
        if isinstance(module, ToRGB):
            rgb = to_rgb(module, x, style, rgb)
        else:
            assert isinstance(module, StyledConv)
            noise = generator.noises[conv_index] if generator.use_noise else None
            x = styled_conv(module, x, style, noise)
            conv_index += 1
    assert rgb is not None
    return rgb


def generate(generator: Generator, w_plus: Tensor, delta: Tensor) -> Tensor:
    """Generate: W+ (N, L, w_dim), offset in S (N, S) → RGB (N, H, W, 3) uint8."""
    styles = generator.flatten_styles(generator.affine(w_plus)) + delta
    rgb = synthesis(generator, generator.split_styles(styles))
    return ((rgb.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1)


def embed_texts(clip: CLIP, texts: Sequence[str], vocabulary: Tensor | None = None) -> np.ndarray:
    """Compute class embeddings (texts, D) from all prompts of every text at 77 tokens, uncached.

    `vocabulary` maps CLIP's token ids to the rows of a smaller token embedding.
    """
    tokens = torch.from_numpy(tokenize([t.format(text) for text in texts for t in TEMPLATES]))
    tokens = tokens.long() if vocabulary is None else vocabulary[tokens.long()].long()
    features = clip.encode_text(tokens).numpy()
    return np.stack([directions.class_embedding(part) for part in np.split(features, len(texts))])
