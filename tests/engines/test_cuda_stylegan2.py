"""The GPU generator against the reference network; Triton interprets its kernels on the CPU."""

import pytest
import torch

from small_networks import randomize, small_generator
from styleclip_server.engines.cuda import convolutions, stylegan2
from styleclip_server.engines.cuda.kernels.stylegan2 import epilogue


def build_generator(channel_base, channel_max, **options):
    return small_generator(
        channel_base=channel_base, channel_max=channel_max, w_dim=512, mapping_layers=1, **options
    )


@pytest.fixture(scope="module", params=[True, False], ids=["noise", "no noise"])
def case(request):
    """(generator, its parameters under the exported names, W_PLUS, DELTA, expected pixels)."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        # Channels that are not powers of two, and batches that do not fill a tile.
        channels = (192, 24) if request.param else (256, 16)
        generator = randomize(build_generator(*channels, use_noise=request.param))
        z = torch.randn(2 * generator.num_latents, generator.w_dim)
        w_plus = generator.mapping(z).unflatten(0, (2, -1))
        delta = 0.3 * torch.randn(2, sum(generator.style_channels))
        delta[0] *= 30  # far from natural: styles are normalized before half precision
        pairs = zip(generator.affine(w_plus), generator.split_styles(delta), strict=True)
        image = generator.synthesis([s + d for s, d in pairs])
        expected = ((image.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1)
    weights = {
        f"generator.{name}": value.numpy()
        for name, value in generator.state_dict().items()
        if request.param or not name.startswith("noises.")
    }
    return weights, w_plus, delta, expected


@pytest.mark.parametrize("many", [0, 2**30], ids=["large images", "small images"])
def test_the_image_matches_the_reference_network(case, many, monkeypatch):
    weights, w_plus, delta, expected = case
    monkeypatch.setattr(epilogue, "MANY_PIXELS", many)
    if not many:  # every form of the convolutions; without this, only layers with many channels
        monkeypatch.setattr(convolutions, "MIN_CHANNELS_TO_SPLIT_PHASES", 24)
        monkeypatch.setattr(convolutions, "MIN_CHANNELS_TO_SPLIT_ROWS", 12)
        monkeypatch.setattr(convolutions, "MIN_PIXELS_TO_SPLIT", 0)
        monkeypatch.setattr(convolutions, "MAX_CHANNELS_TO_PAIR", 6)
    generator = stylegan2.CudaGenerator(weights, "cpu", torch.float32)
    with torch.inference_mode():
        pixels = generator(w_plus, delta)
    assert pixels.dtype == torch.uint8 and pixels.shape == expected.shape
    difference = (pixels.float() - expected).abs()
    # A sum in another order may round the other way.
    assert difference.max() <= 1 and difference.mean() < 1e-3


def test_half_precision_is_within_its_bound(case):
    weights, w_plus, delta, expected = case
    with torch.inference_mode():
        pixels = stylegan2.CudaGenerator(weights, "cpu", torch.float16)(w_plus, delta).float()
    error = (pixels - expected).square().mean()
    assert 10 * torch.log10(255**2 / error) > 45


@pytest.mark.parametrize("first", [0, 1, 2])
def test_blocks_run_on_their_own_continue_those_before_them(first):
    torch.manual_seed(0)
    generator = build_generator(192, 24).eval()
    weights = {name: value.numpy() for name, value in generator.state_dict().items()}
    styles = torch.randn(2, sum(generator.style_channels)) * 0.3 + 1
    split = generator.split_styles(styles)
    inputs = {}
    with torch.inference_mode():
        x, rgb = generator.block(0, generator.constant_features(2, torch.float32), None, split)
        for index in range(1, first):
            x, rgb = generator.block(index, x, rgb, split)
        if first:
            inputs = {"features": x.permute(0, 2, 3, 1).contiguous(), "skip": rgb}
            x, rgb = generator.block(first, x, rgb, split)
        kernels = stylegan2.CudaGenerator(weights, "cpu", torch.float32)
        output = kernels.synthesis(styles, first=first, last=first, **inputs)
    torch.testing.assert_close(output, rgb, rtol=1e-4, atol=1e-4)
