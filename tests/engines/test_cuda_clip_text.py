"""The GPU text encoder of CLIP against the reference network, here on the CPU."""

import numpy as np
import pytest
import torch

from gpu_networks import relative_error, to_weights
from small_networks import draw_tokens, randomize, small_clip
from styleclip_export.convert.random_inputs import random_tokens
from styleclip_export.convert.wrappers import TokensToFeatures
from styleclip_server.engines.cuda.clip_text import CudaTextEncoder
from styleclip_server.serving.options import default_repository
from tools.bench.networks_from_onnx import read_networks


@pytest.fixture(scope="module")
def text_encoder():
    """A CLIP of two blocks and two heads."""
    torch.manual_seed(0)
    clip = small_clip(text_layers=2, text_width=128, transformer_heads=2, vocab_size=200)
    return TokensToFeatures(randomize(clip))


@pytest.fixture(scope="module")
def avatars():
    networks = read_networks(default_repository() / "avatars")
    return TokensToFeatures(networks.clip, networks.vocabulary.numpy())


@pytest.mark.parametrize("length", [8, 24, 77])
@torch.inference_mode()
def test_features_match_the_reference_network(text_encoder, length):
    encoder = CudaTextEncoder(to_weights(text_encoder), "cpu", torch.float32)
    tokens = draw_tokens(9, length).int()
    torch.testing.assert_close(encoder(tokens), text_encoder(tokens), rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_float16_stays_close_to_float32(text_encoder):
    tokens = draw_tokens(9, 16).int()
    features = CudaTextEncoder(to_weights(text_encoder), "cpu")(tokens)
    assert features.dtype == torch.float32
    assert relative_error(features, text_encoder(tokens)) < 2e-3


@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-5), (torch.float16, 3e-3)])
@torch.inference_mode()
def test_the_avatars_vocabulary_is_used(avatars, dtype, bound):
    (tokens,) = random_tokens(5)
    expected = avatars(tokens)
    features = CudaTextEncoder(to_weights(avatars), "cpu", dtype)(tokens[:, :24])
    assert relative_error(features, expected) < bound


@torch.inference_mode()
def test_ids_outside_the_vocabulary_give_finite_features(text_encoder):
    encoder = CudaTextEncoder(to_weights(text_encoder), "cpu", torch.float32)
    tokens = draw_tokens(2, 8).int()
    tokens[0, 1], tokens[1, 1] = 60_000, -3
    assert encoder(tokens).isfinite().all()


def test_a_missing_weight_is_named(text_encoder):
    weights = to_weights(text_encoder)
    del weights["clip.ln_final.weight"]
    with pytest.raises(KeyError, match=r"clip\.ln_final\.weight"):
        CudaTextEncoder(weights, "cpu")


def test_weights_may_be_read_only(text_encoder):
    weights = {name: np.copy(array) for name, array in to_weights(text_encoder).items()}
    for array in weights.values():
        array.setflags(write=False)
    CudaTextEncoder(weights, "cpu")
