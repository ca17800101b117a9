"""The networks in OpenVINO: cut, shared weights, and when they are used."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from styleclip_contract import wire
from styleclip_export.convert import onnx_export, openvino_export
from styleclip_export.convert.accuracy import MIN_PSNR, Accuracy, psnr
from styleclip_export.convert.compare import make_references
from styleclip_export.convert.random_inputs import random_faces, random_latents
from styleclip_export.convert.wrappers import FaceToLatent, LatentToImage
from styleclip_export.errors import ConversionError
from styleclip_networks.e4e import Encoder4Editing
from styleclip_networks.stylegan2 import Generator, channels_by_base
from styleclip_server.engines.cpu import supports_bfloat16
from styleclip_server.engines.openvino.network import Network
from styleclip_server.serving import installation
from styleclip_server.serving.options import Options, ServerStartFailed, default_repository
from styleclip_server.serving.preflight import check

NAMES = ("stylegan2", "e4e")


@pytest.fixture(scope="module")
def networks():
    """Name → wrapper, contract and random inputs of small networks."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = Generator(64, channels_by_base(64, 512, 32), mapping_layers=2).eval()
        encoder = Encoder4Editing(generator.num_latents, (8, 12, 16, 24), (1, 1, 1, 1)).eval()
    return {
        "stylegan2": (LatentToImage(generator), wire.STYLEGAN2, random_latents(generator)),
        "e4e": (FaceToLatent(encoder), wire.E4E, random_faces),
    }


def written(folder, network, accuracy=None, stored=onnx_export.no_weights, bound=1.0):
    """Writes both files; returns the provenance of OpenVINO's."""
    module, model, random_inputs = network
    data = onnx_export.to_onnx(module, model, random_inputs(2), stored)
    (folder / "model.onnx").write_bytes(data)
    accuracy = accuracy or Accuracy("PSNR", psnr, MIN_PSNR)
    references = make_references(module, random_inputs, (1, 2))
    return openvino_export.write(
        folder, module, model, random_inputs, references, accuracy, bound, stored
    )


def ask(path, network, batch, plan=None):
    _, model, example = network
    compiled = Network(path, plan=plan)
    values = dict(zip((t.name for t in model.inputs), example(batch), strict=True))
    return compiled(*(values[name].numpy() for name in compiled.inputs))[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stored", [onnx_export.no_weights, onnx_export.all_weights])
def test_the_large_weights_lie_in_the_other_file_alone(networks, name, stored, tmp_path):
    written(tmp_path, networks[name], stored=stored)
    path = tmp_path / "model.openvino.onnx"
    own = onnx.load(path, load_external_data=False).graph.initializer
    outside = [t for t in own if t.data_location == TensorProto.EXTERNAL]
    assert outside and max(len(t.raw_data) for t in own) < 50_000
    read = {t.name: t.raw_data for t in onnx.load(path).graph.initializer}
    other = onnx.load(tmp_path / "model.onnx").graph.initializer
    whole = {t.name: t.raw_data for t in other}
    assert all(read[t.name] == whole[t.name] for t in outside)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_is_its_rows_and_what_pytorch_computes(networks, name, tmp_path):
    written(tmp_path, networks[name])
    module, _, example = networks[name]
    path = tmp_path / "model.openvino.onnx"
    found = ask(path, networks[name], 3, [("f32", ())])
    with torch.no_grad():
        expected = module(*example(3)).numpy()
    assert np.abs(found.astype(float) - expected).max() <= (1 if name == "stylegan2" else 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_plan_cuts_the_network_into_parts_that_give_the_whole(networks, name, tmp_path):
    """All parts in float32: what a cut forgets or mixes up would show."""
    written(tmp_path, networks[name])
    path = tmp_path / "model.openvino.onnx"
    whole = ask(path, networks[name], 2, [("f32", ())]).astype(float)
    graph = onnx.load(path, load_external_data=False)
    plans = list(openvino_export.bfloat16_plans(graph, name))
    assert len(plans) == {"stylegan2": 4, "e4e": 3}[name]
    for where, plan in plans:
        exact = [("f32", until) for _, until in plan]
        off = np.abs(ask(path, networks[name], 2, exact) - whole).max()
        assert off <= (1 if name == "stylegan2" else 1e-5), where


@pytest.mark.skipif(not supports_bfloat16(), reason="needs a CPU with bfloat16")
@pytest.mark.parametrize("name", NAMES)
def test_the_first_plan_that_holds_the_bound_is_the_one_that_runs(networks, name, tmp_path):
    values = iter((50, 10, 30))
    picky = Accuracy("value", lambda *_: next(values), 20, lower_is_better=True)
    made = written(tmp_path, networks[name], picky)
    assert [trial["used"] for trial in made["tried"]] == [False, True]
    path = tmp_path / "model.openvino.onnx"
    assert np.array_equal(ask(path, networks[name], 1), ask(path, networks[name], 1, made["plan"]))
    exact = ask(path, networks[name], 1, [("f32", ())])
    assert not np.array_equal(ask(path, networks[name], 1), exact)

    never = Accuracy("value", lambda *_: 1.0, 0.0, lower_is_better=True)
    assert not written(tmp_path, networks[name], never)["plan"]
    assert np.array_equal(ask(path, networks[name], 1), exact)


def test_a_form_that_misses_its_bound_is_not_written(networks, tmp_path):
    with pytest.raises(ConversionError, match="OpenVINO differs from PyTorch"):
        written(tmp_path, networks["e4e"], bound=0.0)
    assert not (tmp_path / "model.openvino.onnx").exists()


def test_a_tensor_that_is_not_there_is_named(networks, tmp_path):
    written(tmp_path, networks["e4e"])
    with pytest.raises(RuntimeError, match="no tensor nowhere"):
        Network(tmp_path / "model.openvino.onnx", plan=[("bf16", ["nowhere"]), ("f32", ())])


def test_a_domain_without_the_form_is_served_by_onnx_runtime(monkeypatch, tmp_path):
    monkeypatch.setattr(installation, "supports_bfloat16", lambda: True)
    avatars = default_repository() / "avatars"
    if not installation.Path("/dev/nvidiactl").exists():
        assert installation.fastest_flavour(avatars) == "openvino"
        assert installation.fastest_flavour(tmp_path) == "cpu"
    domain = tmp_path / "avatars"
    domain.mkdir()
    (domain / "domain.json").write_text("{}")
    options = Options(default_repository(), domains=tmp_path, networks="openvino")
    with pytest.raises(ServerStartFailed, match="convert it again"):
        check(options)
