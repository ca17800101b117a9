"""The GPU encoder against the reference network; Triton interprets its kernels on the CPU."""

import pytest
import torch

from e4e_formulas import replace_kernels
from gpu_networks import relative_error, to_weights
from small_networks import randomize, small_encoder
from styleclip_export.convert.random_inputs import random_faces
from styleclip_export.convert.wrappers import FaceToLatent
from styleclip_networks.e4e import Encoder4Editing, GradualStyleEncoder
from styleclip_server.engines.cuda.e4e import CudaEncoder
from styleclip_server.engines.cuda.kernels.e4e import backbone, heads, pyramid
from styleclip_server.serving.options import default_repository
from tools.bench.networks_from_onnx import read_networks


@pytest.fixture
def formulas(monkeypatch):
    """Formulas run, not the kernels: a complete network is slow in the interpreter."""
    replace_kernels(monkeypatch)


def build_network(num_latents=8, w_avg=None, encoder_class=Encoder4Editing):
    torch.manual_seed(0)
    encoder = small_encoder(
        num_latents, 40, depths=(1, 2, 2, 1), style_width=24, encoder_class=encoder_class
    )
    return FaceToLatent(randomize(encoder), w_avg)


def exported_weights(module):
    weights = to_weights(module)
    if module.w_avg is not None:
        weights["w_avg"] = module.w_avg.numpy()
    return weights


@pytest.mark.parametrize("encoder_class", [Encoder4Editing, GradualStyleEncoder])
@pytest.mark.parametrize("num_latents", [8, 14])
@torch.inference_mode()
def test_latents_match_the_reference_network(formulas, num_latents, encoder_class):
    network = build_network(num_latents, torch.randn(num_latents, 40), encoder_class)
    face = torch.rand(2, 3, 256, 256) * 2 - 1
    output = CudaEncoder(exported_weights(network), "cpu", torch.float32)(face)
    torch.testing.assert_close(output, network(face), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_one_average_serves_all_rows(formulas):
    network = build_network(w_avg=torch.randn(40))
    (face,) = random_faces(1)
    output = CudaEncoder(exported_weights(network), "cpu", torch.float32)(face)
    torch.testing.assert_close(output, network(face), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_the_kernels_compute_the_same_network():
    network = build_network()
    (face,) = random_faces(1)
    output = CudaEncoder(exported_weights(network), "cpu", torch.float32)(face)
    torch.testing.assert_close(output, network(face), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_float16_stays_close_to_float32(formulas):
    network = build_network()
    (face,) = random_faces(1)
    output = CudaEncoder(exported_weights(network), "cpu")(face)
    assert output.dtype == torch.float32
    assert relative_error(output, network(face)) < 2e-3


@torch.inference_mode()
def test_the_avatars_encoder_in_float16(formulas):
    networks = read_networks(default_repository() / "avatars")
    network = FaceToLatent(networks.encoder, networks.w_avg)
    (face,) = random_faces(1)
    output = CudaEncoder(exported_weights(network), "cpu")(face)
    assert relative_error(output, network(face)) < 2e-3


def test_a_missing_weight_is_named():
    weights = exported_weights(build_network())
    del weights["encoder.latlayer1.bias"]
    with pytest.raises(KeyError, match=r"encoder\.latlayer1\.bias"):
        CudaEncoder(weights, "cpu")


def test_a_backbone_of_three_stages_is_refused():
    weights = exported_weights(build_network())
    fewer = {k: v for k, v in weights.items() if not k.startswith("encoder.body.5.")}
    with pytest.raises(ValueError, match="3 stages in place of four"):
        CudaEncoder(fewer, "cpu")


def run_kernels_and_formulas(monkeypatch, call):
    """The results of `call` by the kernels and by the formulas."""
    by_kernels = call()
    replace_kernels(monkeypatch)
    return by_kernels, call()


# Channels: a power of two, none, and more than one program takes.
@pytest.mark.parametrize("channels", [16, 24, 112])
def test_elementwise_kernels_match_the_formulas(monkeypatch, channels):
    torch.manual_seed(0)
    x, y, coarse = (torch.randn(2, h, w, channels) for h, w in ((12, 20), (6, 10), (3, 5)))
    bias, slope, gate = torch.randn(channels), torch.rand(channels), torch.rand(2, channels)
    border, other = torch.randn(3, 3, channels), torch.randn(channels)
    fc1, fc2 = torch.randn(7, channels), torch.randn(channels, 7)
    face, weight = torch.randn(2, 3, 12, 20), torch.randn(channels, 3, 3, 3)

    def call():
        output = torch.zeros(2, 12, 20, 3, channels // 2)
        heads.bias_leaky_relu_(output[:, :, :, 1:], x, bias)
        return (
            backbone.convolve_stem(face, weight, bias, slope, torch.float32),
            backbone.apply_prelu_(x.clone(), border, slope),
            backbone.compute_gates(x, bias, fc1, fc2),
            backbone.add_residual_(y.clone(), bias, gate, x[:, ::2, ::2], other),
            pyramid.upsample_add_(y.clone(), bias, coarse),
            output,
        )

    torch.testing.assert_close(*run_kernels_and_formulas(monkeypatch, call), rtol=1e-4, atol=1e-4)


# Output pixels of a head: 1 (which only four taps reach), few, and more than one tile.
@pytest.mark.parametrize("n, size", [(1, 2), (3, 2), (1, 4), (2, 8), (2, 16), (5, 16)])
@pytest.mark.parametrize("channels", [16, 80])
def test_the_head_kernels_match_the_formulas(monkeypatch, n, size, channels):
    torch.manual_seed(0)
    x = torch.randn(n, size, size, 3, channels)
    weight, bias = torch.randn(3, channels, 3, 3, channels), torch.randn(3, channels)
    codes = torch.randn(n, 3, channels)
    linear, linear_bias = torch.randn(3, 48, channels), torch.randn(3, 48)

    def call():
        output = torch.zeros(n, size // 2, size // 2, 4, channels)
        heads.convolve_heads_(output[:, :, :, 1:], x, weight, bias)
        return output, heads.project_codes(codes, linear, linear_bias)

    torch.testing.assert_close(*run_kernels_and_formulas(monkeypatch, call), rtol=1e-4, atol=1e-3)
