"""Small networks of the published architectures, with random weights."""

from styleclip_networks.clip import CLIP


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
