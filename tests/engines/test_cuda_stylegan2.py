"""StyleGAN2's GPU form against the exported network; its kernels run interpreted, on the CPU."""

import pytest
import torch

from styleclip_networks.stylegan2 import Generator, channels_by_base
from styleclip_server.engines.cuda import stylegan2
from styleclip_server.engines.cuda.kernels import stylegan2 as stylegan2_kernels


@pytest.fixture(scope="module", params=[True, False], ids=["noise", "no noise"])
def case(request):
    """(generator, its parameters under the exported names, W_PLUS, DELTA, expected pixels)."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(3)
        # Widths that are no powers of two and steps of the batch that fill no tile.
        widths = channels_by_base(32, 192, 24) if request.param else channels_by_base(32, 256, 16)
        generator = Generator(32, widths, mapping_layers=1, use_noise=request.param).eval()
        for name, parameter in generator.named_parameters():
            if name.endswith(("noise.weight", "activate.bias")):
                parameter.normal_(std=0.3)
        z = torch.randn(2 * generator.num_latents, generator.w_dim)
        w_plus = generator.mapping(z).unflatten(0, (2, -1))
        delta = 0.3 * torch.randn(2, sum(generator.style_channels))
        delta[0] *= 30  # far beyond what is natural: styles are normalised before half precision
        pairs = zip(generator.affine(w_plus), generator.split(delta), strict=True)
        picture = generator.synthesis([s + d for s, d in pairs])
        expected = ((picture.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1)
    weights = {
        f"generator.{name}": value.numpy()
        for name, value in generator.state_dict().items()
        if request.param or not name.startswith("noises.")
    }
    return weights, w_plus, delta, expected


@pytest.mark.parametrize("many", [0, 2**30], ids=["large pictures", "small pictures"])
def test_the_picture_is_that_of_the_exported_network(case, many, monkeypatch):
    weights, w_plus, delta, expected = case
    monkeypatch.setattr(stylegan2_kernels, "MANY_PIXELS", many)
    if not many:  # each form of the convolutions, which else are those of wide layers
        monkeypatch.setattr(stylegan2, "APART_FROM", 24)
        monkeypatch.setattr(stylegan2, "ROWS_APART_FROM", 12)
        monkeypatch.setattr(stylegan2, "PIXELS_APART_FROM", 0)
        monkeypatch.setattr(stylegan2, "PAIRS_UP_TO", 6)
    generator = stylegan2.Generator(weights, "cpu", torch.float32)
    with torch.inference_mode():
        found = generator(w_plus, delta)
    assert found.dtype == torch.uint8 and found.shape == expected.shape
    off = (found.float() - expected).abs()
    assert off.max() <= 1 and off.mean() < 1e-3  # a sum in another order may round the other way


def test_half_precision_holds_the_bound(case):
    weights, w_plus, delta, expected = case
    with torch.inference_mode():
        found = stylegan2.Generator(weights, "cpu", torch.float16)(w_plus, delta).float()
    error = (found - expected).square().mean()
    assert 10 * torch.log10(255**2 / error) > 45
