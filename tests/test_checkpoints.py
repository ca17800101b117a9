"""Published checkpoint files: read right, and never executed."""

import argparse
import bz2
import io
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import torch
from styleclip_export.checkpoints import archive, unpickle
from styleclip_export.checkpoints.domain import read_clip, read_domain, read_encoder
from styleclip_export.checkpoints.stylegan2 import read_generator
from styleclip_export.errors import CheckpointError
from styleclip_export.models.clip import CLIP
from styleclip_export.models.e4e import Encoder4Editing
from styleclip_export.models.stylegan2 import Generator, channels_by_base


@pytest.fixture(scope="module")
def generator():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Generator(32, channels_by_base(32, 256, 16), w_dim=24, mapping_layers=3)
        for parameter in network.parameters():
            parameter.data += torch.randn_like(parameter) * 0.1
    return network.eval()


@pytest.fixture(scope="module")
def encoder():
    return Encoder4Editing(8, (4, 8, 8 + 4, 16), (1, 2, 1, 1), 16, 24).eval()


@pytest.fixture(scope="module")
def clip():
    return CLIP(
        32,
        image_resolution=32,
        vision_patch_size=16,
        vision_width=64,
        vision_layers=2,
        vision_heads=1,
        vocab_size=60,
        transformer_width=64,
        transformer_layers=1,
        transformer_heads=1,
    ).eval()


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def e4e_checkpoint(generator, encoder):
    state = {f"encoder.{k}": v for k, v in encoder.state_dict().items()}
    state |= {f"decoder.{k}": v for k, v in generator.state_dict().items()}
    return {"state_dict": state, "latent_avg": torch.zeros(8, 24), "opts": {"id": 1}}


# --- what they hold


def test_rosinalitys_file_gives_its_generator_and_average(generator, tmp_path):
    state = {k: v for k, v in generator.state_dict().items() if not k.endswith(".kernel")}
    torch.save({"g": {}, "g_ema": state, "latent_avg": torch.ones(24)}, tmp_path / "g.pt")
    found, average = read_generator(tmp_path / "g.pt")
    assert same(found, generator) and average.shape == (24,)


@pytest.mark.parametrize("options", [{"a": 1}, argparse.Namespace(a=1)])
def test_a_domain_folder_gives_all_networks(generator, encoder, clip, tmp_path, options):
    checkpoint = e4e_checkpoint(generator, encoder) | {"opts": options}
    torch.save(checkpoint, tmp_path / "e4e_any_encode.pt")
    torch.save(clip.state_dict(), tmp_path / "ViT-any.pt")
    found = read_domain(tmp_path)
    assert same(found.generator, generator) and same(found.encoder, encoder)
    assert same(found.clip, clip) and found.w_avg.shape == (8, 24)
    assert set(found.sources) == {"e4e_any_encode.pt", "ViT-any.pt"}


def test_a_torchscript_archive_gives_its_weights_without_its_code(clip, tmp_path):
    class Archived(torch.nn.Module):
        """As OpenAI's archive: half precision, and three numbers beside the weights."""

        def __init__(self):
            super().__init__()
            for name, module in clip.named_children():
                self.add_module(name, module)
            for name, parameter in clip.named_parameters(recurse=False):
                self.register_parameter(name, parameter)
            self.register_buffer("input_resolution", torch.tensor(32))

        def forward(self, tokens):
            return clip.encode_text(tokens)

    path = tmp_path / "ViT.pt"
    tokens = torch.zeros(2, 77, dtype=torch.long)
    torch.jit.trace(Archived().half(), tokens, check_trace=False).save(str(path))
    assert archive.is_torchscript(path)
    found = read_clip(path)
    half = {k: v.half().float() for k, v in clip.state_dict().items()}
    assert all(torch.equal(found.state_dict()[k], v) for k, v in half.items())
    clip.float()


def nvidia_pickle(generator):
    """A pickle as stylegan2-ada-pytorch writes it: objects that say their source and state."""
    module = types.ModuleType("torch_utils.persistence")
    package = types.ModuleType("torch_utils")
    module._reconstruct_persistent_obj = lambda meta: None
    module._reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    module._reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"

    class Persistent:
        def __init__(self, parameters=(), buffers=(), modules=()):
            self.state = {
                "_parameters": dict(parameters),
                "_buffers": dict(buffers),
                "_modules": dict(modules),
                "training": False,
            }

        def __reduce__(self):
            meta = {
                "type": "class",
                "version": 6,
                "module_src": "raise SystemExit('the source text was executed')",
                "class_name": "Generator",
                "state": self.state,
            }
            return module._reconstruct_persistent_obj, (meta,)

    ours = {k: torch.nn.Parameter(v) for k, v in generator.state_dict().items()}

    def layer(name, noise):
        parameters = {"weight": ours[f"{name}.conv.weight"][0]}
        affine = Persistent({k: ours[f"{name}.conv.modulation.{k}"] for k in ("weight", "bias")})
        if noise is None:
            parameters["bias"] = ours[f"{name}.bias"].reshape(3)
            return Persistent(parameters, {}, {"affine": affine})
        parameters["bias"] = ours[f"{name}.activate.bias"]
        parameters["noise_strength"] = ours[f"{name}.noise.weight"].reshape(())
        constant = ours[f"noises.noise_{noise}"].data[0, 0]
        return Persistent(parameters, {"noise_const": constant}, {"affine": affine})

    blocks = {
        "b4": Persistent(
            {"const": ours["input.input"][0]},
            {},
            {"conv1": layer("conv1", 0), "torgb": layer("to_rgb1", None)},
        )
    }
    for i, size in enumerate((8, 16, 32)):
        blocks[f"b{size}"] = Persistent(
            {},
            {"resample_filter": torch.ones(4, 4)},
            {
                "conv0": layer(f"convs.{2 * i}", 2 * i + 1),
                "conv1": layer(f"convs.{2 * i + 1}", 2 * i + 2),
                "torgb": layer(f"to_rgbs.{i}", None),
            },
        )
    mapping = Persistent(
        {},
        {"w_avg": torch.full((24,), 0.5)},
        {
            f"fc{i}": Persistent({k: ours[f"style.{i + 1}.{k}"] for k in ("weight", "bias")})
            for i in range(3)
        },
    )
    network = Persistent({}, {}, {"synthesis": Persistent({}, {}, blocks), "mapping": mapping})
    sys.modules |= {"torch_utils": package, "torch_utils.persistence": module}
    try:
        return pickle.dumps({"G": None, "D": None, "G_ema": network})
    finally:
        del sys.modules["torch_utils"], sys.modules["torch_utils.persistence"]


def test_nvidias_pytorch_pickle_gives_the_same_generator(generator, tmp_path):
    path = tmp_path / "network.pkl"
    path.write_bytes(nvidia_pickle(generator))
    found, average = read_generator(path)
    assert same(found, generator) and torch.equal(average, torch.full((24,), 0.5))


@pytest.mark.parametrize("array", [np.arange(6.0).reshape(2, 3), np.asfortranarray(np.eye(3))])
@pytest.mark.parametrize("protocol", range(2, 5))
def test_arrays_come_as_they_were_pickled(array, protocol, tmp_path):
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps([array, array.astype(">i4"), (array[0, 0],)], protocol))
    first, second, (scalar,) = unpickle.read_pickle(path, "arrays")
    assert np.array_equal(first, array) and np.array_equal(second, array.astype(int))
    assert scalar == array[0, 0]


# --- hostile, damaged, something else


class Hostile:
    """Creates a file where it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile(mark):
    command = f"touch {mark}"
    return {
        "os.system": Hostile(os.system, command),
        "exec": Hostile(exec, f"open({str(mark)!r}, 'w')"),
        "eval": Hostile(eval, f"open({str(mark)!r}, 'w')"),
        "getattr": Hostile(getattr, "x", "upper"),
        "open": Hostile(open, str(mark), "w"),
        "import": Hostile(__import__, "os"),
        "numpy": Hostile(np.load, str(mark)),
        "torch": Hostile(torch.load, str(mark)),
        "builder": Hostile(type, "X", (), {}),
    }


@pytest.mark.parametrize("kind", hostile("x"))
def test_a_hostile_pickle_is_named_and_executes_nothing(kind, tmp_path):
    mark = tmp_path / "executed"
    value = hostile(mark)[kind]
    bare = tmp_path / "bare.pkl"
    bare.write_bytes(pickle.dumps({"G_ema": value}))
    packed = tmp_path / "packed.pt"
    torch.save({"g_ema": value}, packed)
    script = tmp_path / "script.pt"
    with zipfile.ZipFile(script, "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(value, 2))
        file.writestr("archive/code/__torch__.py", "open('executed', 'w')")
    for read, path in ((read_generator, bare), (read_generator, packed), (read_clip, script)):
        with pytest.raises(CheckpointError, match="nothing of it was executed"):
            read(path)
    assert not mark.exists()


def test_source_text_in_a_pickle_is_never_executed(generator, tmp_path):
    path = tmp_path / "network.pkl"
    data = nvidia_pickle(generator)
    assert b"SystemExit" in data
    path.write_bytes(data)
    read_generator(path)


def damaged(whole):
    return {
        "cut in half": whole[: len(whole) // 2],
        "cut at the end": whole[:-100],
        "web page": b"<!DOCTYPE html><html>Quota exceeded</html>",
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        "compressed": bz2.compress(whole[:1000]),
        "other": pickle.dumps({"weights": [1, 2, 3]}),
        "zip": _zip({"readme.txt": b"nothing"}),
    }


def _zip(files):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in files.items():
            file.writestr(name, data)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", damaged(b"x" * 2000))
@pytest.mark.parametrize("read", [read_generator, read_clip])
def test_a_damaged_or_other_file_gives_one_line(kind, read, generator, tmp_path):
    torch.save({"g_ema": generator.state_dict()}, tmp_path / "whole.pt")
    path = tmp_path / "network.pt"
    path.write_bytes(damaged((tmp_path / "whole.pt").read_bytes())[kind])
    with pytest.raises(CheckpointError, match=r"network\.pt") as refusal:
        read(path)
    assert "\n" not in str(refusal.value)


def test_weights_of_wrong_shapes_are_refused_before_a_network_is_made(generator, tmp_path):
    for name, tensor in (
        ("convs.1.conv.weight", torch.zeros(1, 7, 16, 3, 3)),
        ("input.input", torch.zeros(1, 1, 1, 1).expand(1, 10**9, 4, 4)),
        ("more", torch.zeros(2)),
    ):
        torch.save({"g_ema": generator.state_dict() | {name: tensor}}, tmp_path / "g.pt")
        with pytest.raises(CheckpointError, match="fit together"):
            read_generator(tmp_path / "g.pt")


def test_an_array_that_claims_more_than_the_file_holds_is_refused(tmp_path):
    array = np.zeros(4, np.float32)
    data = pickle.dumps(array, 2)
    path = tmp_path / "a.pkl"
    path.write_bytes(data.replace(b"K\x04\x85", b"J\xff\xff\xff\x7f\x85"))
    with pytest.raises(CheckpointError):
        unpickle.read_pickle(path, "an array")


def test_what_is_missing_in_a_folder_is_said(generator, encoder, tmp_path):
    with pytest.raises(CheckpointError, match=r"e4e_\*.*fetch"):
        read_domain(tmp_path)
    checkpoint = e4e_checkpoint(generator, encoder)
    del checkpoint["latent_avg"]
    with pytest.raises(CheckpointError, match="latent_avg"):
        read_encoder(checkpoint, tmp_path / "e4e.pt")
