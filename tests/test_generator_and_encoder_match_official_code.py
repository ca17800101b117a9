"""StyleGAN2 and e4e compute what the official code computes, from the official names."""

import json

import numpy as np
import pytest
import torch
from styleclip_export.models import Encoder4Editing, Generator
from styleclip_export.models.stylegan2 import truncate
from torch.nn import functional as F

STYLE, IMAGE, CODE = 2e-5, 1e-4, 2e-4  # largest absolute difference


def shapes_of(module):
    return {name: list(tensor.shape) for name, tensor in module.state_dict().items()}


def assert_close(ours, expected, bound):
    assert ours.shape == expected.shape
    worst = float(np.abs(ours.numpy() - expected).max())
    assert worst <= bound, f"off by {worst:.1e}, at most {bound:.0e} is allowed"


def small(picture):
    """(N, 3, H, W) → its area average (N, 3, 64, 64)."""
    return F.avg_pool2d(picture, picture.shape[-1] // 64)


def assert_picture(picture, data, bound, prefix=""):
    assert_close(small(picture), data[f"{prefix}image64"], bound)
    for i, (y, x) in enumerate(data["corners"]):
        crop = picture[:, :, y : y + 64, x : x + 64]
        assert_close(crop, data[f"{prefix}crop{i}"], bound)
    assert_close(picture.mean((2, 3)), data[f"{prefix}mean"], bound)
    assert_close(picture.std((2, 3), correction=0), data[f"{prefix}std"], bound)


@pytest.fixture(scope="module", params=[256, 1024])
def case(request, golden, official_state):
    """(generator filled as the official one, names and shapes, layer descriptions, numbers)."""
    name = f"stylegan2_{request.param}"
    shapes = json.loads((golden / f"keys_{name}.json").read_text())
    layers = json.loads((golden / f"{name}.json").read_text())["layers"]
    generator = Generator(request.param).eval()
    generator.load_state_dict(official_state(shapes), strict=True)
    return generator, shapes, layers, np.load(golden / f"{name}.npz", allow_pickle=False)


@pytest.fixture
def styles(case):
    generator, _, _, data = case
    return generator.affine(torch.from_numpy(data["w_plus"]))


@pytest.fixture(autouse=True)
def without_gradients():
    with torch.inference_mode():
        yield


def test_the_generator_has_the_official_names_and_shapes(case):
    generator, shapes, _, _ = case
    assert shapes_of(generator) == shapes


def test_the_layers_are_described_as_in_styleclip(case):
    generator, _, layers, _ = case
    described = [(s.name, s.styleclip_name, s.channels) for s in generator.layers]
    assert described == [(s["module"], s["styleclip_name"], s["channels"]) for s in layers]
    for layer in generator.layers:
        assert layer.to_rgb == ("toRGB" in layer.styleclip_name)
        assert layer.styleclip_name.endswith(f"_{layer.resolution}")


def test_the_affine_layers_give_the_official_styles(case, styles):
    data = case[-1]
    for i, style in enumerate(styles):
        assert_close(style, data[f"style_{i:02}"], STYLE)


def test_the_synthesis_gives_the_official_picture(case, styles):
    generator, _, _, data = case
    assert_picture(generator.synthesis(styles), data, IMAGE)


def test_channels_moved_in_stylespace_give_the_official_picture(case, styles):
    generator, _, _, data = case
    for layer, channel, delta in data["edits"]:
        styles[int(layer)][:, int(channel)] += delta
    assert_picture(generator.synthesis(styles), data, IMAGE, prefix="edit_")


def test_the_folded_upsampling_gives_the_official_picture(case, styles):
    generator, _, _, data = case
    generator.fold_upsampling()
    try:
        assert_picture(generator.synthesis(styles), data, IMAGE)
    finally:
        generator.fold_upsampling(False)


def test_mapping_and_truncation_give_the_official_latents_and_picture(case, official_state):
    generator, _, _, data = case
    w = generator.mapping(torch.from_numpy(data["z"]))
    assert_close(w, data["w"], STYLE)
    average = official_state({"latent_avg": [512]})["latent_avg"]
    w_plus = truncate(w[:, None].expand(-1, generator.num_latents, -1), average, psi=0.7)
    for row in (0, -1):
        assert_close(w_plus[:, row], data["trunc_w"], STYLE)
    assert_close(small(generator(w_plus)), data["trunc_image64"], IMAGE)


@pytest.fixture(scope="module")
def e4e_1024(golden, official_state):
    """(encoder, decoder, average latent, names and shapes of one checkpoint; numbers)."""
    keys = json.loads((golden / "keys_e4e_1024.json").read_text())
    state = official_state(keys["state_dict"])
    with torch.device("meta"):  # 300 million weights that nothing needs to draw
        encoder, decoder = Encoder4Editing().eval(), Generator().eval()
    for prefix, module in (("encoder.", encoder), ("decoder.", decoder)):
        part = {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}
        module.load_state_dict(part, strict=True, assign=True)
    average = official_state({"latent_avg": keys["latent_avg"]})["latent_avg"]
    data = np.load(golden / "e4e_1024.npz", allow_pickle=False)
    return encoder, decoder, average, keys["state_dict"], data


@pytest.fixture(scope="module")
def codes(e4e_1024):
    """The encoder's answers to the golden pictures, one at a time: (2, 18, 512)."""
    encoder, _, _, _, data = e4e_1024
    faces = torch.from_numpy(data["x_uint8"].transpose(0, 3, 1, 2).copy()).float()
    faces = (faces / 255 - 0.5) / 0.5
    with torch.inference_mode():
        return torch.cat([encoder(face[None]) for face in faces]), encoder(faces)


def test_the_encoder_has_the_official_names_and_shapes(e4e_1024):
    encoder, decoder, _, shapes, _ = e4e_1024
    ours = {f"encoder.{k}": v for k, v in shapes_of(encoder).items()}
    assert ours | {f"decoder.{k}": v for k, v in shapes_of(decoder).items()} == shapes


@pytest.mark.parametrize("row, name", [(0, "face"), (1, "noise")])
def test_the_encoder_gives_the_official_codes(e4e_1024, codes, row, name):
    _, _, average, _, data = e4e_1024
    one_by_one, together = codes
    for answer in (one_by_one, together):
        assert_close(answer[row : row + 1], data[f"codes_{name}"], CODE)
        assert_close(answer[row : row + 1] + average, data[f"codes_avg_{name}"], CODE)


def test_the_encoded_face_is_decoded_to_the_official_picture(e4e_1024, codes):
    _, decoder, average, _, data = e4e_1024
    picture = decoder(codes[0][:1] + average)
    assert_picture(picture, data, CODE)
    assert_close(F.avg_pool2d(picture, 4).mean((2, 3)), data["face_pool256_mean"], CODE)
