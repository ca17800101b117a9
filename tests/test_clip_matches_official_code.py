"""CLIP ViT-B/32, its tokenizer and StyleCLIP's templates give what the official code gives."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from styleclip_client.errors import TextTooLong
from styleclip_export.models import CLIP
from styleclip_export.models.clip import normalise
from styleclip_server.templates import TEMPLATES
from styleclip_server.tokenizer import tokenize
from torch.nn import functional as F

BOUND = 1e-4  # largest absolute difference


def assert_close(ours, expected, bound=BOUND):
    assert ours.shape == expected.shape
    worst = float(np.abs(ours.numpy() - expected).max())
    assert worst <= bound, f"off by {worst:.1e}, at most {bound:.0e} is allowed"


@pytest.fixture(scope="module")
def texts(golden):
    return json.loads((golden / "clip_text.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def data(golden):
    return np.load(golden / "clip_text.npz", allow_pickle=False)


@pytest.fixture(scope="module")
def shapes(golden):
    return json.loads((golden / "keys_clip_vit_b32.json").read_text())


@pytest.fixture(scope="module")
def clip(shapes, official_state):
    return CLIP.from_state_dict(official_state(shapes)).eval()


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def test_the_sizes_names_and_shapes_are_found_from_an_official_checkpoint(clip, shapes):
    assert {k: list(v.shape) for k, v in clip.state_dict().items()} == shapes


def test_the_three_extra_entries_of_openais_archive_are_left_out():
    clip = CLIP(32, image_resolution=32, vision_patch_size=16, vision_width=64, vision_layers=1,
                vision_heads=1, transformer_width=64, transformer_layers=1, transformer_heads=1,
                vocab_size=100)  # fmt: skip
    extra = {k: torch.tensor(1) for k in ("input_resolution", "context_length", "vocab_size")}
    again = CLIP.from_state_dict(clip.state_dict() | extra)
    assert all(torch.equal(v, clip.state_dict()[k]) for k, v in again.state_dict().items())


def test_texts_become_the_official_tokens(texts, data):
    tokens = tokenize(texts["prompts"])
    assert tokens.dtype == np.int32
    np.testing.assert_array_equal(tokens, data["tokens"])


def test_a_text_that_is_too_long_is_refused_or_cut_as_the_official_code_cuts_it(texts, data):
    with pytest.raises(TextTooLong, match="Shorten the text"):
        tokenize([texts["long_prompt"]])
    cut = tokenize([texts["long_prompt"]], truncate=True)
    np.testing.assert_array_equal(cut, data["tokens_long_truncated"])


def test_the_tokenizer_needs_no_torch():
    code = "import sys, styleclip_server.tokenizer as t; t.tokenize(['a face']); assert 'torch' not in sys.modules"  # noqa: E501
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_text_encoder_gives_the_official_features(clip, data):
    tokens = torch.from_numpy(data["tokens"])
    features = clip.encode_text(tokens)
    assert_close(features, data["text_features"])
    assert_close(clip.encode_text(tokens, trim=True), data["text_features"])


def test_class_embeddings_and_text_directions_are_the_official_ones(clip, texts, data):
    assert len(TEMPLATES) == texts["num_templates"]
    embeddings = {}
    for i, name in enumerate(texts["class_names"]):
        tokens = torch.from_numpy(tokenize([template.format(name) for template in TEMPLATES]))
        features = F.normalize(clip.encode_text(tokens, trim=True), dim=1)
        embeddings[name] = F.normalize(features.mean(0), dim=0)
        assert_close(embeddings[name], data["class_embeddings"][i])
    for i, (neutral, target) in enumerate(texts["pairs_neutral_target"]):
        direction = F.normalize(embeddings[target] - embeddings[neutral], dim=0)
        assert_close(direction, data["dt"][i])


def preprocess(path, side):
    """CLIP's preprocessing: the short side to `side`, the middle square, [0, 1], normalised."""
    picture = Image.open(path).convert("RGB")
    width, height = picture.size
    short = min(width, height)
    size = (int(side * width / short), int(side * height / short))
    picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = round((size[0] - side) / 2), round((size[1] - side) / 2)
    picture = picture.crop((left, top, left + side, top + side))
    pixels = torch.from_numpy(np.asarray(picture, np.float32) / 255)
    return normalise(pixels.permute(2, 0, 1)[None])


def test_the_image_encoder_gives_the_official_features(clip, golden, texts, data):
    pictures = torch.cat([preprocess(golden / name, 224) for name in texts["images"]])
    assert_close(pictures[:, :, 112], data["image_preprocessed_row112"])
    assert_close(pictures.mean((2, 3)), data["image_preprocessed_mean"])
    assert_close(clip.encode_image(pictures), data["image_features"])
