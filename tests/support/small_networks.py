"""Small networks of the published architectures, with random weights."""

import torch
from torch import nn

from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.sfe import Inverter
from styleclip_networks.stylegan2 import Generator, feature_channels

START, END = 198, 199  # tokens of `small_clip(vocab_size=200)`


def small_generator(
    resolution=32, *, channel_base=512, channel_max=32, w_dim=48, mapping_layers=2, **options
):
    """A generator of few channels; `options` are those of `Generator`."""
    channels = feature_channels(resolution, channel_base, channel_max)
    return Generator(resolution, channels, w_dim=w_dim, mapping_layers=mapping_layers, **options)


def small_encoder(
    num_latents=8,
    w_dim=48,
    *,
    widths=(8, 16, 24, 32),
    depths=(1, 1, 2, 1),
    style_width=16,
    encoder_class=Encoder4Editing,
):
    """An encoder of few channels: e4e's, or pSp's with `encoder_class=GradualStyleEncoder`."""
    return encoder_class(num_latents, widths, depths, style_width, w_dim)


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
    defaults = {"vision_width": 64, "vision_heads": 1, "transformer_heads": 1}
    return CLIP(
        embed_dim,
        vision_layers=vision_layers,
        transformer_width=text_width,
        transformer_layers=text_layers,
        **defaults | sizes,
    )


@torch.no_grad()
def randomize(network):
    """Draw what is zero or one in a new network: biases, norms, slopes, noise strengths.

    Returns:
        The network, in evaluation mode.
    """
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            module.weight.uniform_(0.5, 1.5)
        elif isinstance(module, nn.LayerNorm):
            module.weight.uniform_(0.7, 1.3)
        elif isinstance(module, nn.PReLU):
            module.weight.uniform_(-0.3, 0.6)
    for name, parameter in network.named_parameters():
        if name.endswith(("bias", "noise.weight")):
            parameter.add_(0.3 * torch.randn_like(parameter))
    return network.eval()


def draw_tokens(count, length, longest=None):
    """Draw tokens of texts of different lengths, int64 (count, length): start, words, end, zeros.

    Args:
        longest: tokens of the longest text, the first one; by default it fills its row.
    """
    last = (longest or length) - 1
    tokens = torch.randint(1, START, (count, length))
    tokens[:, 0] = START
    for number, row in enumerate(tokens):
        end = last - number % last
        row[end], row[end + 1 :] = END, 0
    return tokens
