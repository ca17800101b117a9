"""The sizes of a network follow from the shapes of its state_dict."""

import torch

from small_networks import small_clip, small_encoder, small_generator, small_inverter
from styleclip_networks.clip import CLIP
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.sfe import FeatureFuser, Inverter
from styleclip_networks.sizes import (
    clip_sizes,
    encoder_sizes,
    feature_fuser_sizes,
    generator_sizes,
    inverter_sizes,
)
from styleclip_networks.stylegan2 import Generator


def shapes(network):
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def test_a_clip_has_the_sizes_of_its_state_dict():
    clip = small_clip(vision_layers=3, vision_width=128, vision_heads=2, text_layers=2,
                      image_resolution=32, vision_patch_size=16, vocab_size=100)  # fmt: skip
    extra = {k: torch.Size() for k in ("input_resolution", "context_length", "vocab_size")}
    rebuilt = CLIP(**clip_sizes(shapes(clip) | extra))  # entries of OpenAI's archive are ignored
    rebuilt.load_state_dict(clip.state_dict())
    assert [block.attn.heads for block in rebuilt.visual.transformer.resblocks] == [2, 2, 2]


def test_an_encoder_has_the_sizes_of_its_state_dict():
    encoder = small_encoder(10, 32, depths=(1, 2, 3, 1))
    rebuilt = Encoder4Editing(**encoder_sizes(shapes(encoder)))
    rebuilt.load_state_dict(encoder.state_dict())
    assert rebuilt.stage_ends == encoder.stage_ends


def test_a_generator_has_the_sizes_of_its_state_dict():
    generator = small_generator(64, w_dim=24, mapping_layers=3)
    rebuilt = Generator(**generator_sizes(shapes(generator)))
    rebuilt.load_state_dict(generator.state_dict())
    assert rebuilt.channels == generator.channels


def test_an_inverter_has_the_sizes_of_its_state_dict():
    inverter = small_inverter()
    rebuilt = Inverter(**inverter_sizes(shapes(inverter)))
    rebuilt.load_state_dict(inverter.state_dict())
    fuser = FeatureFuser(**feature_fuser_sizes(shapes(inverter.fuser)))
    fuser.load_state_dict(inverter.fuser.state_dict())
