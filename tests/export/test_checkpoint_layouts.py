"""Generators and encoders are read from every layout that public projects write, as what they are.

A file is a small network of this project, written under the names and keys of another.
"""

import argparse
import re
import struct

import numpy as np
import pytest
import torch

from checkpoint_files import (
    CHANNELS,
    W_DIM,
    average,
    e4e,
    encoder_state,
    filled,
    generator_state,
    rosinality,
    safetensors,
    same_state,
)
from small_networks import small_encoder
from styleclip_export.checkpoints.encoders import read_encoder
from styleclip_export.checkpoints.generators import read_generator
from styleclip_export.errors import CheckpointError
from styleclip_networks.e4e import GradualStyleEncoder
from tools.parity.nvidia_pickles import ada_generator, official_names, torch_save

MARGIN = {torch.float16: 2e-3, torch.bfloat16: 1e-2, torch.float64: 0}


@pytest.fixture(scope="module")
def state():
    return generator_state()


def save_checkpoint(content, folder):
    torch_save(content, folder / "file.pt")
    return folder / "file.pt"


def read_saved_generator(content, folder):
    return read_generator(save_checkpoint(content, folder))


def read_saved_encoder(content, folder):
    return read_encoder(save_checkpoint(content, folder))


def save_safetensors(tensors, folder, **metadata):
    (folder / "file.safetensors").write_bytes(safetensors(tensors, **metadata))
    return folder / "file.safetensors"


def rename_as_basicsr(state):
    """Rename a state_dict as BasicSR does."""
    names = (
        (r"style\.", "style_mlp."), (r"input\.input", "constant_input.weight"),
        (r"^conv(1|s\.\d+)\.conv\.", r"style_conv\1.modulated_conv."),
        (r"^conv(1|s\.\d+)\.noise\.weight", r"style_conv\1.weight"),
        (r"^conv(1|s\.\d+)\.activate", r"style_conv\1.activate"),
        (r"(to_rgb[^.]*(?:\.\d+)?)\.conv\.", r"\1.modulated_conv."),
        (r"noises\.noise_", "noises.noise"),
    )  # fmt: skip
    renamed = {}
    for name, tensor in state.items():
        if not name.endswith("kernel"):
            for ours, theirs in names:
                name = re.sub(ours, theirs, name)
            renamed[name] = tensor
    return renamed


def add_prefix(state, prefix):
    return {prefix + name: tensor for name, tensor in state.items()}


# --- generators

LAYOUTS = {
    "rosinality, averaged": lambda s: {"g": add_prefix(s, "no."), "g_ema": s},
    "rosinality, DataParallel": lambda s: {"g_ema": add_prefix(s, "module.")},
    "plain": lambda s: s,
    "plain, DataParallel": lambda s: add_prefix(s, "module."),
    "a state_dict": lambda s: {"state_dict": s},
    "a decoder": lambda s: {"state_dict": add_prefix(s, "decoder.")},
    "a decoder, DataParallel": lambda s: {"state_dict": add_prefix(s, "module.decoder.")},
    "a decoder below a model": lambda s: {"state_dict": add_prefix(s, "net.decoder.module.")},
    "BasicSR": lambda s: {"params_ema": rename_as_basicsr(s)},
    "names under G_ema": lambda s: add_prefix(s, "G_ema.") | add_prefix(s, "G."),
    "NVIDIA's names": lambda s: {"G_ema": official_names(s, average())},
    "NVIDIA's names, plain": lambda s: official_names(s, average()),
    "PTI": lambda s: ada_generator(s, average()),
    "PTI under G_ema": lambda s: {"G_ema": ada_generator(s, average())},
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_generator_is_read_from_every_layout(state, layout, tmp_path):
    checkpoint = read_saved_generator(LAYOUTS[layout](state), tmp_path)
    assert same_state(checkpoint.state, state)
    assert not any("averaged" in note for note in checkpoint.notes)


@pytest.mark.parametrize("key", ["g", "generator", "G", "params"])
def test_weights_that_are_not_averaged_are_taken_and_mentioned(state, key, tmp_path):
    content = {key: rename_as_basicsr(state) if key == "params" else state}
    checkpoint = read_saved_generator(content, tmp_path)
    assert same_state(checkpoint.state, state)
    assert any("no averaged ones" in note for note in checkpoint.notes)


@pytest.mark.parametrize("dtype", MARGIN)
def test_other_floating_point_numbers_become_float32(state, dtype, tmp_path):
    content = {"g_ema": {name: tensor.to(dtype) for name, tensor in state.items()}}
    loaded = read_saved_generator(content, tmp_path).state
    for name, tensor in state.items():
        assert loaded[name].dtype == torch.float32
        torch.testing.assert_close(loaded[name], tensor.to(dtype).float(), rtol=0, atol=0)
        torch.testing.assert_close(loaded[name], tensor, rtol=MARGIN[dtype], atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_safetensors_give_the_same_network(state, dtype, tmp_path):
    tensors = {f"g_ema.{name}": tensor.to(dtype) for name, tensor in state.items()}
    tensors["latent_avg"] = average()
    checkpoint = read_generator(save_safetensors(tensors, tmp_path))
    assert same_state(checkpoint.state, {n: t.to(dtype).float() for n, t in state.items()})
    assert torch.equal(checkpoint.w_avg, average())


def test_a_number_that_float32_cannot_hold_is_refused(state, tmp_path):
    large = {**state, "conv1.activate.bias": torch.full((CHANNELS[4],), 1e300, dtype=torch.float64)}
    with pytest.raises(CheckpointError, match="not finite"):
        read_saved_generator({"g_ema": large}, tmp_path)


def test_noise_that_a_file_lacks_is_drawn_always_alike_and_mentioned(state, tmp_path):
    without = {name: tensor for name, tensor in state.items() if not name.startswith("noises.")}
    path = save_checkpoint(rosinality(without), tmp_path)
    first, second = read_generator(path), read_generator(path)
    noise = first.state["noises.noise_5"]
    assert same_state(first.state, second.state) and 0.9 < noise.std() < 1.1
    assert any("no noise images" in note for note in first.notes)
    assert not torch.equal(first.state["noises.noise_5"], first.state["noises.noise_6"])


def test_a_network_trained_without_noise_is_mentioned(state, tmp_path):
    without = {name: tensor for name, tensor in state.items() if "noise" not in name}
    checkpoint = read_saved_generator({"g_ema": without}, tmp_path)
    assert not checkpoint.state["noises.noise_5"].any() and "no noise" in checkpoint.notes[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda s: {"a": add_prefix(s, "x.")} | add_prefix(s, "x.") | add_prefix(s, "y."),
         "several"),
        (lambda s: {"g_ema": s | {"convs.9.conv.weight": torch.zeros(1)}}, "convs.9.conv.weight"),
        (lambda s: {"epoch": 3}, "no StyleGAN2 generator"),
        (lambda s: {"g_ema": {n: t for n, t in s.items() if n != "conv1.noise.weight"}},
         "lacks 'conv1.noise.weight'"),
        (lambda s: argparse.Namespace(**{"g_ema": 1}), "without layers"),
    ],
)  # fmt: skip
def test_a_file_without_one_complete_generator_is_refused_with_the_reason(
    state, change, reason, tmp_path
):
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_saved_generator(change(state), tmp_path)
    assert "\n" not in str(caught.value)


def test_safetensors_that_lie_about_their_size_are_refused(state, tmp_path):
    path = save_safetensors({"conv1.conv.modulation.weight": torch.zeros(3, 3)}, tmp_path)
    data = path.read_bytes()
    for changed in (
        data[:-4],
        struct.pack("<Q", 1 << 40) + data[8:],
        data.replace(b"[3, 3]", b"[3, 9]"),
        data.replace(b"[0, 36]", b"[9, 99]"),
        data.replace(b"F32", b"F8X"),
        data.replace(b'"shape"', b'"shave"'),
    ):
        assert changed != data
        path.write_bytes(changed)
        with pytest.raises(CheckpointError, match="expected"):
            read_generator(path)


# --- encoders


def build_checkpoint(**options):
    return e4e({"encoder_type": "Encoder4Editing", "start_from_latent_avg": True, **options})


def small_face():
    return torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(3)) * 2 - 1


@torch.inference_mode()
def test_a_psp_encoder_is_run_as_psp_and_not_as_e4e(tmp_path):
    """A pSp file has e4e's names and shapes; only opts.encoder_type differs."""
    one = read_saved_encoder(build_checkpoint(), tmp_path)
    other = read_saved_encoder(build_checkpoint(encoder_type="GradualStyleEncoder"), tmp_path)
    assert (one.kind, other.kind) == ("e4e", "pSp") and same_state(one.state, other.state)
    e4e_rows, rows = one.network()(small_face())[0], other.network()(small_face())[0]
    torch.testing.assert_close(e4e_rows[1:] - rows[:1], rows[1:], rtol=0, atol=1e-4)
    assert (e4e_rows[1:] - rows[1:]).abs().max() > 0.01 and torch.equal(e4e_rows[0], rows[0])


def test_the_average_is_added_only_if_the_training_started_from_it(tmp_path):
    content = build_checkpoint()
    assert torch.equal(read_saved_encoder(content, tmp_path).w_avg, content["latent_avg"])
    assert read_saved_encoder(build_checkpoint(start_from_latent_avg=False), tmp_path).w_avg is None
    del content["latent_avg"]
    content["opts"]["start_from_latent_avg"] = False
    checkpoint = read_saved_encoder(content, tmp_path)
    assert checkpoint.w_avg is None and not checkpoint.notes


def test_a_missing_average_is_the_mean_latent_of_the_decoder(tmp_path):
    content = build_checkpoint()
    del content["latent_avg"]
    checkpoint = read_saved_encoder(content, tmp_path)
    with torch.inference_mode():
        z = torch.randn(20_000, W_DIM, generator=torch.Generator().manual_seed(9))
        mean = checkpoint.decoder.network().mapping(z).mean(0)
    torch.testing.assert_close(checkpoint.w_avg, mean, rtol=0, atol=0.05)
    assert "10,000" in checkpoint.notes[0]


def test_options_without_an_encoder_type_are_taken_for_e4e_and_mentioned(tmp_path):
    content = build_checkpoint()
    del content["opts"]["encoder_type"]
    checkpoint = read_saved_encoder(content, tmp_path)
    assert checkpoint.kind == "e4e" and "encoder_type" in checkpoint.notes[0]


def test_an_encoder_is_read_from_every_layout(tmp_path):
    state, content = encoder_state(), build_checkpoint()
    for change in (
        {"state_dict": add_prefix(content["state_dict"], "module.")},
        {"state_dict": {n.replace("encoder.", "encoder.module."): t
                        for n, t in content["state_dict"].items()}},
        {"state_dict": add_prefix(state, "encoder.")},  # without a decoder
    ):  # fmt: skip
        checkpoint = read_saved_encoder({**content, **change}, tmp_path)
        assert same_state(checkpoint.state, state)
    assert checkpoint.decoder is None
    flat = {**content["state_dict"], "latent_avg": content["latent_avg"]}
    options = {"encoder_type": "GradualStyleEncoder", "start_from_latent_avg": "False"}
    checkpoint = read_encoder(save_safetensors(flat, tmp_path, **options))
    assert (
        same_state(checkpoint.state, state)
        and checkpoint.kind == "pSp"
        and checkpoint.w_avg is None
    )
    assert same_state(checkpoint.decoder.state, generator_state())


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"encoder_type": "BackboneEncoderUsingLastLayerIntoW"},
            "IntoW .*Encoder4Editing",
        ),
        ({"encoder_type": "GradualStyleEncoder", "learn_in_w": True}, "learn_in_w"),
    ],
)
def test_an_encoder_of_another_kind_is_refused_by_its_name(options, reason, tmp_path):
    with pytest.raises(CheckpointError, match=reason) as caught:
        read_saved_encoder(build_checkpoint(**options), tmp_path)
    assert "\n" not in str(caught.value)


def test_an_encoder_of_sketches_is_refused_by_its_channels(tmp_path):
    content = build_checkpoint(encoder_type="GradualStyleEncoder", label_nc=19)
    content["state_dict"]["encoder.input_layer.0.weight"] = torch.zeros(4, 19, 3, 3)
    with pytest.raises(CheckpointError, match="19 channels"):
        read_saved_encoder(content, tmp_path)


def test_an_encoder_and_a_decoder_of_other_sizes_are_refused_with_both(tmp_path):
    content = build_checkpoint()
    network = small_encoder(8, W_DIM, encoder_class=GradualStyleEncoder)
    state = {n: t for n, t in content["state_dict"].items() if n.startswith("decoder.")}
    content["state_dict"] = state | add_prefix(filled(network), "encoder.")
    content["latent_avg"] = torch.zeros(8, W_DIM)
    with pytest.raises(CheckpointError, match=r"8 latents of 24.*takes 10 of 24"):
        read_saved_encoder(content, tmp_path)


def test_a_numpy_array_in_the_options_is_ignored(tmp_path):
    content = build_checkpoint(exclude=np.float64(3.5))
    assert read_saved_encoder(content, tmp_path).options["exclude"] == 3.5
