"""The networks work at any size, treat the images of a batch independently, and learn."""

import numpy as np
import pytest
import torch

from small_networks import draw_tokens, small_clip, small_encoder, small_generator
from styleclip_networks.clip import trim_tokens
from styleclip_networks.latents import truncate_latents
from styleclip_networks.stylegan2 import Generator, config_f_channels
from styleclip_networks.stylespace import style_layers
from styleclip_server.pipeline.style_statistics import convolution_channels


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


def millions(module):
    return sum(p.numel() for p in module.parameters()) / 1e6


def clip_of_short_texts():
    return small_clip(
        vision_layers=2,
        vision_heads=2,
        text_layers=2,
        transformer_heads=2,
        image_resolution=48,
        vision_patch_size=16,
        context_length=12,
        vocab_size=200,
    )


def test_the_published_widths_are_those_of_config_f():
    narrow = {128: 256, 256: 128, 512: 64, 1024: 32}
    assert config_f_channels(1024) == dict.fromkeys((4, 8, 16, 32, 64), 512) | narrow


@pytest.mark.parametrize("resolution", [32, 64, 128, 256, 512, 1024])
@torch.inference_mode()
def test_the_generator_works_at_every_resolution(resolution):
    generator = small_generator(
        resolution, channel_base=4096, channel_max=8, w_dim=16, mapping_layers=1
    )
    w = generator.mapping(torch.randn(1, 16))[:, None].expand(-1, generator.num_latents, -1)
    assert generator(w).shape == (1, 3, resolution, resolution)
    assert 1 + max(layer.latent for layer in generator.layers) == generator.num_latents


def test_the_stylespace_layout_describes_the_modules_of_the_generator():
    generator = small_generator(128)
    for index, layer in enumerate(generator.layers):
        conv = generator.get_submodule(layer.name).conv
        assert layer.to_rgb == ("toRGB" in layer.styleclip_name) == (not conv.demodulate)
        assert layer.styleclip_name.endswith(f"_{layer.resolution}")
        assert layer.channels == conv.weight.shape[2]
        assert layer.resolution == 4 << layer.block
        assert generator.modulation(index) is conv.modulation


@pytest.mark.parametrize("resolution", [32, 256, 1024])
def test_the_server_finds_the_convolutions_of_stylespace_where_the_generator_has_them(resolution):
    layers = style_layers(config_f_channels(resolution))
    is_convolution = np.repeat([not s.to_rgb for s in layers], [s.channels for s in layers])
    rows = convolution_channels(tuple(layer.channels for layer in layers))
    assert np.array_equal(rows, np.flatnonzero(is_convolution))


@pytest.mark.parametrize("resolution", [16, 96, 2048])
def test_unsupported_resolutions_are_refused(resolution):
    with pytest.raises(ValueError, match="power of two from 32 to 1024"):
        Generator(resolution)


@torch.inference_mode()
def test_every_image_of_a_batch_is_independent_of_the_others():
    generator, encoder, clip = (
        small_generator(),
        small_encoder().eval(),
        clip_of_short_texts().eval(),
    )
    cases = (
        (generator, torch.randn(3, generator.num_latents, 48)),
        (encoder, torch.rand(3, 3, 256, 256) * 2 - 1),
        (clip.encode_image, torch.randn(3, 3, 48, 48)),
        (clip.encode_text, draw_tokens(3, 12)),
    )
    for network, batch in cases:
        together = network(batch)
        for i in range(3):
            torch.testing.assert_close(network(batch[i : i + 1])[0], together[i], atol=1e-5, rtol=0)


@torch.inference_mode()
def test_both_upsampling_modes_give_the_same_image():
    generator = small_generator(64)
    styles = generator.affine(torch.randn(2, generator.num_latents, 48))
    transposed = generator.synthesis(styles)
    generator.set_upsampling("folded")
    torch.testing.assert_close(generator.synthesis(styles), transposed, atol=1e-5, rtol=0)


@torch.inference_mode()
def test_flattened_styles_split_into_the_same_list():
    generator = small_generator()
    styles = generator.affine(torch.randn(2, generator.num_latents, 48))
    flat = generator.flatten_styles(styles)
    assert flat.shape == (2, sum(generator.style_channels))
    assert all(torch.equal(a, b) for a, b in zip(generator.split_styles(flat), styles, strict=True))


@torch.inference_mode()
def test_a_generator_without_noise_has_none():
    noisy, plain = small_generator(), small_generator(use_noise=False)
    for name, tensor in noisy.named_parameters():
        if name.endswith("noise.weight"):
            tensor.fill_(1.0)
    plain.load_state_dict(noisy.state_dict())
    w = torch.randn(1, noisy.num_latents, 48)
    assert (noisy(w) - plain(w)).abs().max() > 0.01
    for i in range(2 * len(noisy.to_rgbs) + 1):
        noisy.noises[i].zero_()
    assert torch.equal(noisy(w), plain(w))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@torch.inference_mode()
def test_half_precision_gives_nearly_the_same_image(dtype):
    generator = small_generator()
    styles = generator.affine(torch.randn(2, generator.num_latents, 48))
    exact, rough = generator.synthesis(styles), generator.synthesis(styles, dtype)
    assert rough.dtype == torch.float32
    bound = 1e-3 if dtype == torch.bfloat16 else 1e-5
    assert (exact - rough).square().mean() < bound * exact.square().mean()


@torch.inference_mode()
def test_styles_too_large_for_float16_are_scaled():
    generator = small_generator()
    styles = [1e6 * s if not layer.to_rgb else s
              for s, layer in zip(generator.affine(torch.randn(2, generator.num_latents, 48)),
                                  generator.layers, strict=True)]  # fmt: skip
    exact, rough = generator.synthesis(styles), generator.synthesis(styles, torch.float16)
    assert (exact - rough).square().mean() < 1e-5 * exact.square().mean()


def test_truncation_can_leave_the_fine_layers_alone():
    w, average = torch.randn(2, 8, 48), torch.randn(48)
    cut = truncate_latents(w, average, psi=0.7, cutoff=3)
    assert torch.equal(cut[:, 3:], w[:, 3:])
    torch.testing.assert_close(cut[:, :3], average + 0.7 * (w[:, :3] - average))
    assert torch.equal(truncate_latents(w, average, psi=0.0), average.expand(2, 8, 48))


def test_an_encoder_of_five_million_parameters_reads_a_face():
    encoder = small_encoder(14, 512, widths=(16, 32, 64, 128), depths=(2, 2, 3, 2), style_width=64)
    assert 3 < millions(encoder) < 7
    with torch.inference_mode():
        assert encoder.eval()(torch.zeros(1, 3, 256, 256)).shape == (1, 14, 512)


@torch.inference_mode()
def test_trimming_the_padding_of_a_text_keeps_its_features():
    clip = clip_of_short_texts()
    tokens = draw_tokens(3, 12, longest=5)
    torch.testing.assert_close(
        clip.encode_text(trim_tokens(tokens)), clip.encode_text(tokens), atol=1e-5, rtol=0
    )


def test_every_weight_gets_a_gradient():
    generator, encoder, clip = small_generator(), small_encoder(), clip_of_short_texts()
    w = generator.mapping(torch.randn(4, 48))[:, None]
    losses = {
        generator: generator(w.expand(-1, generator.num_latents, -1)).square().mean(),
        encoder: encoder(torch.rand(2, 3, 256, 256)).square().mean(),
        clip: (clip.encode_text(draw_tokens(4, 12)) - clip.encode_image(torch.randn(4, 3, 48, 48)))
        .square()
        .mean(),
    }
    for network, loss in losses.items():
        loss.backward()
        # Contrastive training uses the temperature outside the encoders.
        silent = {n for n, p in network.named_parameters() if p.grad is None} - {"logit_scale"}
        assert not silent
        assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)
