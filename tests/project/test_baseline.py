"""The baseline that speed is measured against computes what the served networks compute."""

import base64
import io
import json
import urllib.request

import numpy as np
import pytest
import torch
from PIL import Image

from paths import AVATAR, ROOT
from polling import SECONDS
from small_networks import randomize, small_generator
from styleclip_client import Client
from styleclip_networks.clip import trim_tokens
from tools.bench import baseline, baseline_server, networks_from_onnx


@torch.inference_mode()
def test_per_image_weights_give_the_same_image_as_shared_weights():
    torch.manual_seed(0)
    generator = randomize(small_generator(64, mapping_layers=8))
    styles = generator.affine(torch.randn(3, generator.num_latents, 48))
    expected = generator.synthesis(styles)
    assert expected.std() > 0.1
    torch.testing.assert_close(baseline.synthesis(generator, styles), expected, atol=2e-5, rtol=0)


@pytest.fixture(scope="module")
def networks():
    return networks_from_onnx.read_networks(ROOT / "model_repository" / "avatars")


@torch.inference_mode()
def test_class_embeddings_at_77_tokens_are_those_of_trimmed_texts(networks):
    from styleclip_server.pipeline import directions

    def trimmed(tokens):
        rows = networks.vocabulary[torch.from_numpy(tokens).long()].long()
        return networks.clip.encode_text(trim_tokens(rows)).numpy()

    texts = ["a face", "a sad face"]
    expected = directions.class_embeddings(texts, trimmed)
    embeddings = baseline.embed_texts(networks.clip, texts, networks.vocabulary)
    np.testing.assert_allclose(embeddings, np.stack(expected), atol=1e-5)


def test_the_baseline_server_gives_the_same_image_as_triton(server):
    photo = AVATAR.read_bytes()
    with Client(server.grpc_url) as client:
        edit = client.domain().edit("a sad face")
        ours = client.edit_photo(photo, edit, format="JPEG").image()
    body = {"photo": base64.b64encode(photo).decode(), "neutral": edit.neutral,
            "target": edit.target, "strength": edit.strength,
            "threshold": edit.threshold}  # fmt: skip
    with baseline_server.running() as port:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/edit", json.dumps(body).encode(), method="POST"
        )
        with urllib.request.urlopen(request, timeout=SECONDS) as response:
            theirs = Image.open(io.BytesIO(response.read()))
    a, b = (np.asarray(image.convert("RGB"), np.float64) for image in (ours, theirs))
    assert a.std() > 20
    assert 10 * np.log10(255**2 / np.square(a - b).mean()) > 35  # both are JPEGs
