"""The Hopper kernels against PyTorch. They run on that GPU alone; elsewhere only the filters that
they take are tested."""

import math

import pytest
import torch
from torch.nn import functional as F

from styleclip_networks.stylegan2 import Generator
from styleclip_server.engines.cuda import stylegan2
from styleclip_server.engines.cuda.kernels import hopper
from styleclip_server.engines.cuda.kernels.stylegan2.epilogue import EpilogueParams

if not hopper.SUPPORTS_TRITON:
    pytest.skip("written for another release of Triton", allow_module_level=True)

from styleclip_server.engines.cuda.hopper_block import HopperBlock
from styleclip_server.engines.cuda.kernels.hopper.last_convolution import pack_last_filters
from styleclip_server.engines.cuda.kernels.hopper.up_convolution import (
    pack_up_filters,
    upsample_convolve,
)

on_hopper = pytest.mark.skipif(
    not (torch.cuda.is_available() and hopper.is_available(torch.device("cuda"))),
    reason="no Hopper GPU",
)


def upsampled(x, weight):
    """(N, C, H, W) → (N, out, 2H, 2W): transposed convolution and resample filter."""
    resample_filter = torch.tensor([1.0, 3, 3, 1], device=x.device) / 4
    y = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    n, out, height, width = y.shape
    y = F.pad(y.flatten(0, 1)[:, None], (1, 1, 1, 1))
    y = F.conv2d(y, (resample_filter[:, None] * resample_filter)[None, None])
    return y.view(n, out, height - 1, width - 1)


def test_blurred_filters_and_a_blur_along_columns_give_the_upsampling_convolution():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 6, 5, 7), torch.randn(4, 6, 3, 3)
    filters = pack_up_filters(weight).view(3, 3, 6, 2, 4)  # row, position, in, pixel, out
    padded = F.pad(x, (1, 1, 2, 2))  # two rows of zeros above and below
    shifted = torch.stack([padded[..., t : t + 7] for t in range(3)])  # position, N, in, H + 4, W
    by_row = torch.einsum("tnchw,rtcbo->rnohwb", shifted, filters).flatten(4)
    rows = torch.zeros(2, 4, 2 * 9 + 1, 14)  # of the transposed convolution, from -4 on
    rows[:, :, :-1:2] += by_row[0]
    rows[:, :, 1::2] += by_row[1]
    rows[:, :, 2::2] += by_row[2]
    first, last = 4, 4 + 2 * 5
    output = sum(
        part * rows[:, :, first - 1 + j : last - 1 + j]
        for j, part in enumerate((0.25, 0.75, 0.75, 0.25))
    )
    torch.testing.assert_close(output, upsampled(x, weight), atol=1e-5, rtol=1e-5)


def test_the_rearranged_filters_of_the_last_convolution_give_the_same_output():
    torch.manual_seed(0)
    x, weight = torch.randn(2, 6, 5, 7), torch.randn(4, 6, 3, 3)
    filters = pack_last_filters(weight)
    patches = F.unfold(x, 3, padding=1).view(2, 6, 9, 5, 7)
    output = torch.einsum("nctyx,tco->noyx", patches, filters)
    torch.testing.assert_close(output, F.conv2d(x, weight, padding=1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width, fused", [(32, True), (16, False)])
def test_the_last_block_is_fused_where_the_kernels_run_and_fit_it(width, fused, monkeypatch):
    monkeypatch.setattr(hopper, "is_available", lambda device: True)
    channels = {4 << i: 64 for i in range(8)} | {1024: width}
    state = Generator(1024, channels, w_dim=8, mapping_layers=1).state_dict()
    weights = {name: value.numpy() for name, value in state.items()}
    blocks = stylegan2.CudaGenerator(weights, "cpu").blocks
    assert [type(block) for block in blocks[:-1]] == [stylegan2.SynthesisBlock] * 8
    assert isinstance(blocks[-1], HopperBlock) == fused


@on_hopper
@pytest.mark.parametrize("batch", [1, 5])  # programs of few rows and of many
@pytest.mark.parametrize("noise", [True, False])
def test_the_upsampling_kernel_matches_the_formula(batch, noise):
    torch.manual_seed(0)
    x = torch.randn(batch, 200, 136, 64, device="cuda").half()  # no multiple of a program
    weight = torch.randn(32, 64, 3, 3, device="cuda") / math.sqrt(9 * 64)
    epilogue = EpilogueParams(
        3, torch.randn(32, device="cuda"), torch.randn(400, 272, device="cuda").half()
    )
    epilogue = epilogue if noise else EpilogueParams(3, epilogue.bias, None)
    dcoefs = torch.rand(batch, 40, device="cuda") + 0.5
    next_style = torch.rand(batch, 50, device="cuda") * 2 - 1
    filters = pack_up_filters(weight).half()
    output = upsample_convolve(x, filters, epilogue, dcoefs, next_style)
    y = upsampled(x.float().permute(0, 3, 1, 2), weight) * dcoefs[:, 3:35, None, None]
    y = y + epilogue.bias[:, None, None]
    y = y if epilogue.noise is None else y + epilogue.noise.float()
    expected = F.leaky_relu(y, 0.2) * next_style[:, :32, None, None]
    output = output.float().permute(0, 3, 1, 2)
    torch.testing.assert_close(output, expected, atol=0.02, rtol=0.005)


@on_hopper
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32])
def test_the_last_block_matches_the_general_kernels(batch, dtype, monkeypatch):
    torch.manual_seed(0)
    generator = Generator(1024, mapping_layers=1).eval()
    for name, parameter in generator.named_parameters():
        if name.endswith(("noise.weight", "activate.bias")):
            parameter.data.normal_(std=0.3)
    weights = {k: v.detach().numpy() for k, v in generator.state_dict().items()}
    fast = stylegan2.CudaGenerator(weights)
    assert isinstance(fast.blocks[-1], HopperBlock)
    monkeypatch.setattr(hopper, "is_available", lambda device: False)
    plain = stylegan2.CudaGenerator(weights)
    assert isinstance(plain.blocks[-1], stylegan2.SynthesisBlock)
    styles = torch.randn(batch, sum(generator.style_channels), device="cuda") * 0.3 + 1
    with torch.inference_mode():
        image, expected = (g.synthesis(styles, image_dtype=dtype).float() for g in (fast, plain))
    scale = 127.5 if dtype == torch.uint8 else 1.0
    difference = (image - expected).abs() / scale
    assert difference.mean() < 0.002 and difference.max() < 0.1
