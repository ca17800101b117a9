"""Small networks of the published architectures, with random weights."""

from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.sfe import Inverter
from styleclip_networks.stylegan2 import Generator, feature_channels


def small_generator(resolution=32, *, w_dim=48, mapping_layers=2, **options):
    """A generator of at most 32 channels; `options` are those of `Generator`."""
    channels = feature_channels(resolution, channel_base=512, channel_max=32)
    return Generator(resolution, channels, w_dim=w_dim, mapping_layers=mapping_layers, **options)


def small_encoder(num_latents=8, w_dim=48):
    """An e4e encoder of at most 32 channels."""
    return Encoder4Editing(
        num_latents, widths=(8, 16, 24, 32), depths=(1, 1, 2, 1), style_width=16, w_dim=w_dim
    )


def small_inverter(num_latents=8, feature_channels=32, w_dim=48):
    """StyleFeatureEditor's inverter of at most 32 channels."""
    return Inverter(
        num_latents,
        widths=(8, 12, 16, 24),
        depths=(1, 2, 3, 1),
        feature_channels=feature_channels,
        fuser_units=2,
        w_dim=w_dim,
    )


def small_clip(embed_dim=32, *, vision_layers=1, text_layers=1, text_width=64, **sizes):
    """A CLIP whose image encoder is 64 channels wide; `sizes` are other sizes of `CLIP`."""
    return CLIP(
        embed_dim,
        vision_width=64,
        vision_layers=vision_layers,
        transformer_width=text_width,
        transformer_layers=text_layers,
        **{"vision_heads": 1, "transformer_heads": 1} | sizes,
    )
