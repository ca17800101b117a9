"""The domain's networks in their sizes."""

from __future__ import annotations

from pathlib import Path

from domains.avatars.attributes import TABLE
from domains.avatars.renders import RESOLUTION
from domains.training import networks
from domains.training.checkpoints import load_weights
from domains.training.latent_codes import LatentCodes
from domains.training.networks import SparseAffine
from styleclip_contract.wire import W_DIM
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.stylegan2 import Generator, feature_channels

CHANNELS = feature_channels(RESOLUTION, channel_base=8192, channel_max=256)
NUM_LATENTS = 14
CODES = LatentCodes(TABLE, block=W_DIM // TABLE.num_values)  # 8 dimensions of W for each value
COLOR_VALUES = [
    TABLE.offsets[a] + v
    for a, attribute in enumerate(TABLE.attributes)
    if attribute.is_color
    for v in range(TABLE.sizes[a])
]


def build_generator() -> Generator:
    """Build an untrained generator with sparse affine layers."""
    generator = networks.build_generator(CHANNELS)
    sparse_affine(generator).initialize(generator)
    return generator


def sparse_affine(generator: Generator) -> SparseAffine:
    """Give layers up to 64 px a channel for each value, those above for each color."""
    values = {
        i: list(range(TABLE.num_values)) if layer.resolution <= 64 else COLOR_VALUES
        for i, layer in enumerate(generator.layers)
        if not layer.to_rgb and layer.channels >= len(COLOR_VALUES)
    }
    return SparseAffine(generator, CODES, values, free=False)


def load_generator(out: Path) -> Generator:
    """Build the generator and load the stages that have run: `mapping.pt`, `generator.pt`."""
    generator = build_generator()
    load_weights(generator.style, out / "mapping.pt")
    load_weights(generator, out / "generator.pt", exclude="style.")
    return generator


def build_encoder() -> Encoder4Editing:
    """Build an untrained e4e encoder."""
    return networks.build_encoder(NUM_LATENTS)
