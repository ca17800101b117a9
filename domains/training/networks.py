"""The architectures that are trained: a sparse StyleGAN2, a narrow e4e and a small CLIP.

The generator's affine layers are sparse: some modulated channels of StyleSpace depend on the block
of W of one value each, so that StyleSpace is disentangled by construction. The architecture is
StyleGAN2's. Channels of toRGB depend on nothing, since StyleCLIP's global directions do not edit
toRGB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from domains.training.checkpoints import load_weights
from domains.training.latent_codes import LatentCodes
from styleclip_contract.wire import W_DIM
from styleclip_networks.clip import CLIP, normalize_images
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.stylegan2 import Generator

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
FREE_AFFINE_SCALE = 0.15  # of the initial weights that read W's free dimensions


def build_generator(channels: Mapping[int, int]) -> Generator:
    """Build an untrained generator without noise; channels by resolution."""
    generator = Generator(max(channels), channels, W_DIM, use_noise=False)
    with torch.no_grad():
        for layer in generator.layers:
            if layer.to_rgb:
                generator.get_submodule(layer.name).conv.weight.mul_(0.3)
    return generator


class SparseAffine:
    """Which weights of a generator's affine layers may be nonzero.

    Args:
        codes: the layout of W.
        values: by layer index, the values that the layer's first channels depend on.
        free: whether its other channels depend on W's dimensions that no value uses, or on nothing.
    """

    def __init__(
        self,
        generator: Generator,
        codes: LatentCodes,
        values: Mapping[int, Sequence[int]],
        free: bool,
    ) -> None:
        self._codes, self._values, self._layers = codes, values, generator.layers
        blocks = codes.basis().abs()
        self.masks: list[Tensor] = []
        for i, layer in enumerate(generator.layers):
            mask = torch.zeros(layer.channels, W_DIM)
            if not layer.to_rgb:
                mask[:, codes.used :] = float(free)
                chosen = list(values.get(i, ()))
                mask[: len(chosen)] = blocks[chosen]
            self.masks.append(mask)

    def editable_channels(self) -> Tensor:
        """Return which rows of fs3 are of channels that depend on a value, bool (rows,)."""
        masks = zip(self.masks, self._layers, strict=True)
        return torch.cat(
            [m[:, : self._codes.used].any(1) for m, layer in masks if not layer.to_rgb]
        )

    @torch.no_grad()
    def initialize(self, generator: Generator) -> None:
        """Let each value move its channels by half of the usual style, 1."""
        u = self._codes.basis()
        for i, mask in enumerate(self.masks):
            affine = generator.modulation(i)
            affine.weight.mul_(mask * FREE_AFFINE_SCALE)
            for channel, value in enumerate(self._values.get(i, ())):
                affine.weight[channel] = 0.5 * u[value] / self._codes.block / affine.scale

    @torch.no_grad()
    def apply(self, generator: Generator) -> None:
        """Zero the weights that must be zero."""
        for i, mask in enumerate(self.masks):
            weight = generator.modulation(i).weight
            self.masks[i] = mask = mask.to(weight.device)
            weight.mul_(mask)


def build_encoder(num_latents: int) -> Encoder4Editing:
    """Build an untrained e4e encoder: images (N, 3, 256, 256) in, W+ (N, num_latents, 512) out."""
    return Encoder4Editing(num_latents, **ENCODER_SIZES)


def build_clip(vocabulary_size: int) -> CLIP:
    """Build an untrained CLIP over the tokens that captions use (`caption_data.py`)."""
    return CLIP(vocab_size=vocabulary_size, **IMAGE_TOWER, **TEXT_TOWER)


def load_text_tower(path: Path, vocabulary_size: int, device: torch.device) -> CLIP:
    """Load the text tower of the checkpoint `path`, frozen; the image tower is untrained.

    Raises:
        FileNotFoundError: the stage `clip` has not run.
    """
    clip = build_clip(vocabulary_size)
    if not load_weights(clip, path, exclude="visual."):
        raise FileNotFoundError(f"{path} is missing: run the stage `clip` first")
    return clip.to(device).float().eval().requires_grad_(False)


def preprocess(images: Tensor) -> Tensor:
    """Convert images (N, 3, r, r) in [-1, 1] to the image tower's input (N, 3, 128, 128)."""
    return normalize_images((downsample(images.clamp(-1, 1)) + 1) / 2)


def downsample(images: Tensor) -> Tensor:
    """Average images (N, 3, r, r) over areas, to the image tower's resolution."""
    if images.shape[-1] == CLIP_RESOLUTION:
        return images
    return F.interpolate(images, size=(CLIP_RESOLUTION, CLIP_RESOLUTION), mode="area")
