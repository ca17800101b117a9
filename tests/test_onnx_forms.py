"""The forms that are exported for a CPU compute what the networks compute."""

import onnx
import pytest
import torch
from styleclip_client import contract
from styleclip_export import onnx_export, onnx_forms
from styleclip_export.models import Encoder4Editing, Generator
from styleclip_export.models.stylegan2 import channels_by_base
from torch import nn
from torch.nn import functional as F


@pytest.fixture(autouse=True)
def few_channels_are_many(monkeypatch):
    """Small networks take the forms of large ones."""
    torch.manual_seed(0)
    monkeypatch.setattr(onnx_forms, "WINOGRAD_CHANNELS", 16)


def generator(**options):
    g = Generator(64, channels_by_base(64, base=1024, maximum=32), 24, 2, **options).eval()
    for module in g.modules():
        if hasattr(module, "bias") and isinstance(module.bias, nn.Parameter):
            module.bias.data += 0.3 * torch.randn_like(module.bias)
    for layer in (g.conv1, *g.convs):
        layer.noise.weight.data.fill_(0.2)
    return g


def encoder():
    e = Encoder4Editing(8, (8, 16, 24, 32), (1, 2, 2, 2), 16, 24).eval()
    for module in e.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
        if isinstance(module, nn.PReLU):
            module.weight.data.uniform_(-0.3, 1)
    return e


def near(a, b, relative=1e-5):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= relative * b.abs().max()


@pytest.mark.parametrize("side", [8, 16, 32])
def test_winograds_filtering_is_a_convolution(side):
    x, weight = torch.randn(2, 5, side, side), torch.randn(7, 5, 3, 3)
    rows = onnx_forms.winograd(x.flatten(2).transpose(1, 2), weight, side)
    near(rows.transpose(1, 2).unflatten(2, (side, side)), F.conv2d(x, weight, padding=1))


@pytest.mark.parametrize("side", [1, 4, 9])
def test_convolutions_by_parity_are_a_transposed_convolution(side):
    x, weight = torch.randn(2, 5, side, side), torch.randn(7, 5, 3, 3)
    expected = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    near(onnx_forms.transposed_by_parity(x, weight, side), expected)


@pytest.mark.parametrize("noise", [True, False])
@torch.inference_mode()
def test_the_picture_is_the_generators(noise):
    g = generator(use_noise=noise)
    w = g.mapping(torch.randn(3 * g.num_latents, 24)).reshape(3, g.num_latents, 24)
    styles = g.affine(w)
    assert onnx_forms.suits_winograd(g.convs[3].conv.weight[0], 16)
    near(onnx_forms.synthesis(g, styles), g.synthesis(styles))


@pytest.mark.parametrize("steepest", [1.0, 1.5])
@torch.inference_mode()
def test_the_latents_are_the_encoders(steepest):
    e = encoder()
    e.body[0].res_layer[2].weight[3] = steepest  # above 1 the fused form does not hold
    face = torch.randn(2, 3, 256, 256)
    near(onnx_forms.encode(e, face), e(face))


def test_exported_files_keep_every_parameter_by_its_name():
    g, e = generator(), encoder()
    exports = (
        (onnx_export.LatentToPicture(g), contract.STYLEGAN2, onnx_export.random_latents(g)),
        (onnx_export.FaceToLatent(e), contract.E4E, onnx_export.random_faces),
    )
    for module, model, example in exports:
        data = onnx_export.export(module, model, example, 1.0, batches=(1, 3)).data
        nodes = onnx.load_from_string(data).graph
        known = {t.name for t in nodes.initializer} | {o for n in nodes.node for o in n.output}
        for name, _ in module.named_parameters():
            assert name in known or ".style." in name, name
