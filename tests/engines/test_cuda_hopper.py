"""The kernels for a Hopper against the networks' own form. They run on that device alone: elsewhere
their filters are tried."""

import math

import pytest
import torch
from torch.nn import functional as F

from styleclip_server.engines.cuda import stylegan2
from styleclip_server.engines.cuda.kernels import hopper
from styleclip_server.engines.cuda.kernels import stylegan2 as kernels

on_hopper = pytest.mark.skipif(
    not (torch.cuda.is_available() and hopper.is_available(torch.device("cuda"))),
    reason="no Hopper, or another Triton",
)
of_this_triton = pytest.mark.skipif(
    not hasattr(hopper, "up_convolution"), reason="written for another Triton"
)


def up_sampled(x, weight):
    """(N, C, H, W) → (N, out, 2H, 2W): transposed convolution and binomial filter."""
    binomial = torch.tensor([1.0, 3, 3, 1], device=x.device) / 4
    y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    n, out, height, width = y.shape
    y = F.pad(y.flatten(0, 1)[:, None], (1, 1, 1, 1))
    y = F.conv2d(y, (binomial[:, None] * binomial)[None, None])
    return y.view(n, out, height - 1, width - 1)


@of_this_triton
def test_filters_with_half_of_the_blur_and_the_other_half_are_the_up_sampling_convolution():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 6, 5, 7), torch.randn(4, 6, 3, 3)
    taps = hopper.up_convolution.taps_of(weight).view(3, 3, 6, 2, 4)  # row, place, in, pixel, out
    near = F.pad(x, (1, 1, 2, 2))  # two lines of zeros above and below
    places = torch.stack([near[..., t : t + 7] for t in range(3)])  # place, N, in, H + 4, W
    by_row = torch.einsum("tnchw,rtcbo->rnohwb", places, taps).flatten(4)
    rows = torch.zeros(2, 4, 2 * 9 + 1, 14)  # of the transposed convolution, from -4 on
    rows[:, :, :-1:2] += by_row[0]
    rows[:, :, 1::2] += by_row[1]
    rows[:, :, 2::2] += by_row[2]
    first, last = 4, 4 + 2 * 5
    found = sum(
        part * rows[:, :, first - 1 + j : last - 1 + j]
        for j, part in enumerate((0.25, 0.75, 0.75, 0.25))
    )
    torch.testing.assert_close(found, up_sampled(x, weight), atol=1e-5, rtol=1e-5)


@of_this_triton
def test_filters_of_the_last_convolution():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 6, 5, 7), torch.randn(4, 6, 3, 3)
    taps = hopper.last_convolution.taps_of(weight)
    near = F.unfold(x, 3, padding=1).view(2, 6, 9, 5, 7)
    found = torch.einsum("nctyx,tco->noyx", near, taps)
    torch.testing.assert_close(found, F.conv2d(x, weight, padding=1), atol=1e-5, rtol=1e-5)


@on_hopper
@pytest.mark.parametrize("pictures", [1, 5])  # programs of few rows and of many
@pytest.mark.parametrize("noise", [True, False])
def test_the_up_sampling_convolution(pictures, noise):
    torch.manual_seed(0)
    x = torch.randn(pictures, 200, 136, 64, device="cuda").half()  # programs that end beyond it
    weight = torch.randn(32, 64, 3, 3, device="cuda") / math.sqrt(9 * 64)
    layer = kernels.Finish(
        3, torch.randn(32, device="cuda"), torch.randn(400, 272, device="cuda").half()
    )
    layer = layer if noise else kernels.Finish(layer.factor, layer.bias, None)
    factors = torch.rand(pictures, 40, device="cuda") + 0.5
    scaled = torch.rand(pictures, 50, device="cuda") * 2 - 1
    taps = hopper.up_convolution.taps_of(weight).half()
    found = hopper.up_convolution.up_convolve(x, taps, layer, factors, scaled).float()
    y = up_sampled(x.float().permute(0, 3, 1, 2), weight) * factors[:, 3:35, None, None]
    y = y + layer.bias[:, None, None]
    y = y if layer.noise is None else y + layer.noise.float()
    expected = F.leaky_relu(y, 0.2) * scaled[:, :32, None, None]
    torch.testing.assert_close(found.permute(0, 3, 1, 2), expected, atol=0.02, rtol=0.005)


@on_hopper
@pytest.mark.parametrize("pictures", [1, 5])
@pytest.mark.parametrize("kind", [torch.uint8, torch.float16, torch.float32])
def test_the_last_block_gives_the_picture_of_the_plain_kernels(pictures, kind, monkeypatch):
    from styleclip_networks.stylegan2 import Generator

    torch.manual_seed(0)
    generator = Generator(1024, mapping_layers=1).eval()
    for name, parameter in generator.named_parameters():
        if name.endswith(("noise.weight", "activate.bias")):
            parameter.data.normal_(std=0.3)
    weights = {k: v.detach().numpy() for k, v in generator.state_dict().items()}
    fast = stylegan2.Generator(weights)
    assert fast.last_block is not None
    monkeypatch.setattr(hopper, "is_available", lambda device: False)
    plain = stylegan2.Generator(weights)
    assert plain.last_block is None
    styles = torch.randn(pictures, sum(generator.style_channels), device="cuda") * 0.3 + 1
    with torch.inference_mode():
        found, expected = (g.synthesis(styles, picture=kind).float() for g in (fast, plain))
    scale = 127.5 if kind == torch.uint8 else 1.0
    off = (found - expected).abs() / scale
    assert off.mean() < 0.002 and off.max() < 0.1
