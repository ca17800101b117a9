"""The domain's three networks in their sizes: StyleGAN2, e4e and CLIP.

The generator's affine layers are sparse: each modulated channel of StyleSpace depends on the block
of W of one value, so StyleSpace is disentangled by construction. The architecture is StyleGAN2's.
Channels of toRGB depend on nothing, since StyleCLIP's global directions do not edit toRGB.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.avatars.attributes import ATTRIBUTES, NUM_VALUES, OFFSETS, SIZES
from domains.avatars.latent_codes import BLOCK, W_DIM, value_basis
from domains.avatars.renders import RESOLUTION
from domains.avatars.training import load_weights
from styleclip_networks.clip import CLIP, normalize_images
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.stylegan2 import Generator, feature_channels

CHANNELS = feature_channels(RESOLUTION, channel_base=8192, channel_max=256)
NUM_LATENTS = 14
ENCODER_SIZES = {"widths": (32, 64, 112, 192), "depths": (2, 2, 4, 2), "style_width": 64}
CLIP_RESOLUTION = 128  # pixels, the input of the image tower
IMAGE_TOWER = {
    "image_resolution": CLIP_RESOLUTION,
    "vision_patch_size": 8,
    "vision_width": 256,
    "vision_layers": 6,
    "vision_heads": 4,
}
TEXT_TOWER = {
    "transformer_width": 256,
    "transformer_layers": 4,
    "transformer_heads": 4,
    "embed_dim": 256,
    "context_length": 77,
}
COLOR_VALUES = [
    OFFSETS[a] + v
    for a, attribute in enumerate(ATTRIBUTES)
    if attribute.is_color
    for v in range(SIZES[a])
]


def build_generator() -> Generator:
    """Build an untrained generator with sparse affine layers."""
    generator = Generator(RESOLUTION, CHANNELS, W_DIM, use_noise=False)
    u, values = value_basis(), channel_values(generator)
    with torch.no_grad():
        for i, layer in enumerate(generator.layers):
            affine = generator.modulation(i)
            affine.weight.zero_()
            for channel, value in enumerate(values.get(i, [])):
                affine.weight[channel] = 0.5 * u[value] / BLOCK / affine.scale
            if layer.to_rgb:
                generator.get_submodule(layer.name).conv.weight.mul_(0.3)
    return generator


def channel_values(generator: Generator) -> dict[int, list[int]]:
    """Return the values that a layer's first channels depend on, by layer index.

    Up to 64 px a layer has one channel for each value, above for each color.
    """
    table = {}
    for i, layer in enumerate(generator.layers):
        if layer.to_rgb:
            continue
        if layer.resolution <= 64:
            table[i] = list(range(NUM_VALUES))
        elif layer.channels >= len(COLOR_VALUES):
            table[i] = COLOR_VALUES
    return table


def affine_masks(generator: Generator) -> dict[int, Tensor]:
    """Return which affine weights may be nonzero, float32 (channels, W_DIM) by layer index."""
    blocks, values = value_basis().abs(), channel_values(generator)
    masks = {}
    for i, layer in enumerate(generator.layers):
        mask = torch.zeros(layer.channels, W_DIM)
        for channel, value in enumerate(values.get(i, [])):
            mask[channel] = blocks[value]
        masks[i] = mask
    return masks


def load_generator(out: Path) -> Generator:
    """Build the generator and load the stages that have run: `mapping.pt`, `generator.pt`."""
    generator = build_generator()
    load_weights(generator.style, out / "mapping.pt")
    load_weights(generator, out / "generator.pt", exclude="style.")
    return generator


def build_encoder() -> Encoder4Editing:
    """Build an untrained e4e encoder: images (N, 3, 256, 256) in, W+ (N, 14, 512) out."""
    return Encoder4Editing(NUM_LATENTS, **ENCODER_SIZES)


def build_clip(vocabulary_size: int) -> CLIP:
    """Build an untrained CLIP over the tokens that captions use (`caption_data.py`)."""
    return CLIP(vocab_size=vocabulary_size, **IMAGE_TOWER, **TEXT_TOWER)


def preprocess(images: Tensor) -> Tensor:
    """Convert images (N, 3, r, r) in [-1, 1] to the image tower's input (N, 3, 128, 128)."""
    return normalize_images((downsample(images.clamp(-1, 1)) + 1) / 2)


def downsample(images: Tensor) -> Tensor:
    """Average images (N, 3, r, r) over areas, to the image tower's resolution."""
    if images.shape[-1] == CLIP_RESOLUTION:
        return images
    return F.interpolate(images, size=(CLIP_RESOLUTION, CLIP_RESOLUTION), mode="area")
