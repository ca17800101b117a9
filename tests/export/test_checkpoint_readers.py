"""Checkpoints of every published layout give exactly the weights that were put into them.

The golden TensorFlow pickle, which the official code wrote and ran, is compared where the golden
folder has it; the others are written here in small sizes, filled by the golden rule.
"""

import argparse
import math
import pickle

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from checkpoint_files import (
    CHANNELS,
    W_DIM,
    average,
    encoder_state,
    feature_editor,
    filled,
    filled_clip,
    generator_state,
    rosinality,
    same_state,
    scripted_clip,
    style_samples,
)
from checkpoint_files import e4e as e4e_content
from styleclip_export.checkpoints import (
    clip,
    dlib_landmarks,
    domain_files,
    encoders,
    feature_editors,
    generators,
    styleclip_npy,
)
from styleclip_export.errors import CheckpointError
from styleclip_export.verify import folder, tf_pickle
from styleclip_networks.stylegan2 import Generator
from styleclip_server.pipeline.landmarks import find_landmark_model
from tools.parity.nvidia_pickles import ada, tensorflow


@pytest.fixture(scope="module")
def state():
    return generator_state()


@pytest.fixture(scope="module")
def w_avg():
    return average()


def write(path, data):
    path.write_bytes(data)
    return path


# --- generators


def test_the_golden_tensorflow_pickle_gives_the_images_of_the_official_code(golden):
    cases = list(tf_pickle.cases(folder.Folder(golden)))
    if not cases:
        pytest.skip("this golden folder has no TensorFlow pickle")
    about, numbers = (cases[0].files[i] for i in (2, 1))
    assert about.endswith("json") and numbers.endswith("npz")
    checkpoint = generators.read_generator(golden / cases[0].files[0])
    generator, data = checkpoint.network(), np.load(golden / numbers)
    with torch.inference_mode():
        styles = generator.affine(torch.from_numpy(data["ws"]))
        image = generator.synthesis(styles).numpy()
        w = generator.mapping(torch.from_numpy(data["z"])).numpy()
    for i, style in enumerate(styles):
        np.testing.assert_allclose(style.numpy(), data[f"style_{i:02}"], rtol=0, atol=2e-5)
    np.testing.assert_allclose(image, data["image"], rtol=0, atol=1e-4)
    np.testing.assert_allclose(w, data["w"], rtol=0, atol=2e-5)
    np.testing.assert_array_equal(checkpoint.w_avg.numpy(), data["w_avg"])


@pytest.mark.parametrize("zipped", [True, False])
def test_rosinalitys_file_in_either_format_gives_its_state(state, w_avg, zipped, tmp_path):
    path = tmp_path / "g.pt"
    torch.save(rosinality(state), path, _use_new_zipfile_serialization=zipped)
    checkpoint = generators.read_generator(path)
    assert same_state(checkpoint.state, state) and torch.equal(checkpoint.w_avg, w_avg)
    assert checkpoint.sizes == {
        "resolution": 64,
        "channels": CHANNELS,
        "w_dim": W_DIM,
        "mapping_layers": 3,
    }
    assert same_state(checkpoint.network().state_dict(), state)


def test_blur_kernels_may_be_missing(state, tmp_path):
    torch.save({k: v for k, v in state.items() if "kernel" not in k}, tmp_path / "g.pt")
    assert same_state(generators.read_generator(tmp_path / "g.pt").state, state)


def test_a_missing_average_is_replaced_by_a_reproducible_mean(state, tmp_path):
    torch.save({"g_ema": state}, tmp_path / "g.pt")
    checkpoint = generators.read_generator(tmp_path / "g.pt")
    assert checkpoint.w_avg is None
    first, second = (checkpoint.w_avg_or_mean(checkpoint.network()) for _ in range(2))
    assert first.shape == (W_DIM,) and torch.equal(first, second)


@pytest.mark.parametrize("resolution", [32, 256])
def test_resolution_and_widths_are_read_from_the_file(resolution, tmp_path):
    widths = {2**p: 3 + p for p in range(2, int(math.log2(resolution)) + 1)}
    state = filled(Generator(resolution, widths, 8, mapping_layers=1))
    torch.save({"g_ema": state}, tmp_path / "g.pt")
    checkpoint = generators.read_generator(tmp_path / "g.pt")
    assert checkpoint.sizes["channels"] == widths and same_state(checkpoint.state, state)


def test_a_tensorflow_pickle_gives_the_averaged_network(state, w_avg, tmp_path):
    checkpoint = generators.read_generator(
        write(tmp_path / "g.pkl", tensorflow(state, w_avg, label_size=0))
    )
    # The pickle lacks the 1 of the modulation's bias, so that one addition is rounded.
    assert checkpoint.state.keys() == state.keys() and torch.equal(checkpoint.w_avg, w_avg)
    for name, value in state.items():
        rounding = 1e-6 if name.endswith("modulation.bias") else 0
        torch.testing.assert_close(checkpoint.state[name], value, rtol=0, atol=rounding)


@pytest.mark.parametrize("options", [{}, {"protocol": 3}, {"protocol": 5}, {"channels_last": True}])
def test_an_ada_pickle_gives_its_averaged_network(state, w_avg, options, tmp_path):
    checkpoint = generators.read_generator(write(tmp_path / "g.pkl", ada(state, w_avg, **options)))
    assert same_state(checkpoint.state, state) and torch.equal(checkpoint.w_avg, w_avg)


def ada_image(state, ws):
    """Compute the image as stylegan2-ada-pytorch's `training/networks.py` does from the pickle's
    parameters: convolutions without a gain, toRGB's gain in its style."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
    kernel = torch.outer(taps, taps) / 64

    def blur(x, gain, padding):
        weight = (kernel * gain).expand(x.shape[1], 1, 4, 4)
        return F.conv2d(F.pad(x, padding), weight, groups=x.shape[1])

    def style(name, w, gain=1.0):
        weight = state[f"{name}.conv.modulation.weight"] / math.sqrt(W_DIM)
        return (w @ weight.T + state[f"{name}.conv.modulation.bias"]) * gain

    def layer(name, noise, x, w, up):
        weight = state[f"{name}.conv.weight"][0] * style(name, w)[0][None, :, None, None]
        weight = weight * (weight.square().sum((1, 2, 3), keepdim=True) + 1e-8).rsqrt()
        if up:
            x = blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2), 4, (1, 1, 1, 1))
        else:
            x = F.conv2d(x, weight, padding=1)
        x = x + state[f"noises.noise_{noise}"] * state[f"{name}.noise.weight"]
        x = x + state[f"{name}.activate.bias"][:, None, None]
        return F.leaky_relu(x, 0.2) * math.sqrt(2)

    def to_rgb(name, x, w):
        weight = state[f"{name}.conv.weight"][0]
        modulated = weight * style(name, w, weight.shape[1] ** -0.5)[0][None, :, None, None]
        return F.conv2d(x, modulated) + state[f"{name}.bias"]

    x = layer("conv1", 0, state["input.input"], ws[:, 0], up=False)
    image = to_rgb("to_rgb1", x, ws[:, 1])
    for i in range(len(CHANNELS) - 1):
        x = layer(f"convs.{2 * i}", 2 * i + 1, x, ws[:, 2 * i + 1], up=True)
        x = layer(f"convs.{2 * i + 1}", 2 * i + 2, x, ws[:, 2 * i + 2], up=False)
        n, c, h, w = image.shape
        zeros_between = torch.zeros(n, c, h, 2, w, 2)
        zeros_between[:, :, :, 0, :, 0] = image
        image = blur(zeros_between.reshape(n, c, 2 * h, 2 * w), 4, (2, 1, 2, 1))
        image = image + to_rgb(f"to_rgbs.{i}", x, ws[:, 2 * i + 3])
    return image


def test_an_ada_pickle_gives_the_image_of_the_official_arithmetic(state, w_avg, tmp_path):
    generator = generators.read_generator(write(tmp_path / "g.pkl", ada(state, w_avg))).network()
    ws = torch.randn(1, generator.num_latents, W_DIM, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(generator(ws), ada_image(state, ws), rtol=0, atol=1e-4)


def test_a_network_trained_without_noise_gets_noise_of_strength_zero(state, w_avg, tmp_path):
    without_noise = {k: v for k, v in state.items() if "noise" not in k}
    loaded = generators.read_generator(write(tmp_path / "g.pkl", ada(without_noise, w_avg))).state
    zeros = {k: torch.zeros_like(v) for k, v in state.items() if "noise" in k}
    assert same_state(loaded, without_noise | zeros)


def test_differences_from_the_official_network_are_noted(state, w_avg, tmp_path):
    data = ada(state, w_avg, conv_clamp=256)
    assert "±256" in generators.read_generator(write(tmp_path / "g.pkl", data)).notes[0]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"c_dim": 10}, "number of labels"),
        ({"architecture": "resnet"}, "architecture"),
        ({"img_channels": 1}, "number of color channels"),
    ],
)
def test_ada_networks_with_other_arithmetic_are_refused(state, w_avg, options, reason, tmp_path):
    data = ada(state, w_avg, **options)
    with pytest.raises(CheckpointError, match=reason):
        generators.read_generator(write(tmp_path / "g.pkl", data))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"label_size": 3}, "number of labels"),
        ({"architecture": "resnet"}, "architecture"),
        ({"mapping_lrmul": 0.1}, "learning rate"),
        ({"resample_kernel": [1, 2, 1]}, "filter"),
    ],
)
def test_tensorflow_networks_with_other_arithmetic_are_refused(
    state, w_avg, options, reason, tmp_path
):
    path = write(tmp_path / "g.pkl", tensorflow(state, w_avg, **options))
    with pytest.raises(CheckpointError, match=reason):
        generators.read_generator(path)


# --- e4e


@pytest.mark.parametrize("options", [{"device": "cuda"}, argparse.Namespace(device="cuda")])
@pytest.mark.parametrize("zipped", [True, False])
def test_e4es_file_gives_encoder_decoder_and_average(options, zipped, state, tmp_path):
    encoder, content = encoder_state(), e4e_content(options)
    torch.save(content, tmp_path / "e4e.pt", _use_new_zipfile_serialization=zipped)
    checkpoint = encoders.read_encoder(tmp_path / "e4e.pt")
    assert same_state(checkpoint.state, encoder) and same_state(checkpoint.decoder.state, state)
    assert same_state(checkpoint.network().state_dict(), encoder)
    assert torch.equal(checkpoint.w_avg, content["latent_avg"])
    assert (checkpoint.sizes["num_latents"], checkpoint.options) == (10, {"device": "cuda"})
    assert same_state(generators.read_generator(tmp_path / "e4e.pt").state, state)


# --- StyleFeatureEditor


def test_the_file_of_a_feature_editor_gives_inverter_and_editor(tmp_path):
    content = feature_editor()
    torch.save(content, tmp_path / "sfe_editor_light.pt")
    read = feature_editors.read_feature_editor(tmp_path / "sfe_editor_light.pt")
    ours = {f"inverter.{k}": v for k, v in read.inverter.state_dict().items()}
    ours |= {f"encoder.{k}": v for k, v in read.editor.state_dict().items()}
    del content["state_dict"]["discriminator.b4.fc.weight"]
    assert same_state(ours, content["state_dict"])


def test_the_file_of_an_inverter_alone_has_it_as_its_encoder(tmp_path):
    prefix = "inverter."
    state = {
        k.removeprefix(prefix): v
        for k, v in feature_editor()["state_dict"].items()
        if k.startswith(prefix)
    }
    torch.save({"state_dict": {f"encoder.{k}": v for k, v in state.items()}}, tmp_path / "i.pt")
    read = feature_editors.read_feature_editor(tmp_path / "i.pt")
    assert read.editor is None and same_state(read.inverter.state_dict(), state)


# --- CLIP


def test_a_plain_state_dict_of_clip_gives_its_state(tmp_path):
    official = filled_clip().state_dict()
    torch.save(official | {"vocab_size": torch.tensor(2000)}, tmp_path / "clip.pt")
    checkpoint = clip.read(tmp_path / "clip.pt")
    assert same_state(checkpoint.state, official)
    assert same_state(checkpoint.network().state_dict(), official)
    assert checkpoint.sizes["transformer_heads"] == 2 and checkpoint.sizes["image_resolution"] == 48


def test_openais_torchscript_archive_gives_its_state_in_float32(tmp_path):
    script, state = scripted_clip()
    script.save(str(tmp_path / "ViT.pt"))
    checkpoint = clip.read(tmp_path / "ViT.pt")
    official = {k: v.float() for k, v in state.items() if k in checkpoint.state}
    assert same_state(checkpoint.state, official)
    assert len(official) == len(filled_clip().state_dict())


# --- StyleCLIP's files and dlib's


@pytest.mark.parametrize("protocol", [3, 4, 5])
def test_the_statistics_of_styleclips_scripts_are_read(protocol, tmp_path):
    samples = style_samples()
    means, deviations = [s.mean(0) for s in samples], [s.std(0) for s in samples]
    write(tmp_path / "S_mean_std", pickle.dumps([means, deviations], protocol))
    statistics = styleclip_npy.read_s_mean_std(tmp_path / "S_mean_std")
    for read, written in (
        (statistics.means, means),
        (statistics.deviations, deviations),
    ):
        assert all(np.array_equal(a, b) for a, b in zip(read, written, strict=True))


def test_styleclips_fs3_is_read_as_float32(tmp_path):
    fs3 = np.arange(12.0).reshape(4, 3)
    np.save(tmp_path / "fs3.npy", fs3)
    loaded = styleclip_npy.read_fs3(tmp_path / "fs3.npy")
    assert loaded.dtype == np.float32 and np.array_equal(loaded, fs3)


def test_dlibs_landmarks_are_installed_compressed_or_not(landmarks_bz2, tmp_path):
    official = find_landmark_model()
    placed = dlib_landmarks.install(official, tmp_path / "plain.dat")
    assert placed.published and placed.path.stat().st_size == dlib_landmarks.SIZE
    assert dlib_landmarks.install(landmarks_bz2, tmp_path / "target.dat").published
    assert len(list(tmp_path.iterdir())) == 2


def test_a_domain_folder_gives_all_networks(state, tmp_path):
    torch.save(e4e_content(), tmp_path / "e4e_any_encode.pt")
    torch.save(filled_clip().state_dict(), tmp_path / "ViT-any.pt")
    domain = domain_files.read_domain(domain_files.DomainFiles.find(tmp_path))
    assert same_state(domain.generator.state_dict(), state)
    assert same_state(domain.encoder.state_dict(), encoder_state())
    assert same_state(domain.clip.state_dict(), filled_clip().state_dict())
    assert domain.w_avg.shape == (10, W_DIM)
    assert set(domain.sources) == {"e4e_any_encode.pt", "ViT-any.pt"}


def test_the_error_names_what_a_folder_lacks(tmp_path):
    with pytest.raises(CheckpointError, match=r"e4e_\*.*fetch"):
        domain_files.DomainFiles.find(tmp_path)
