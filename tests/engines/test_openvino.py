"""The networks in OpenVINO: precision plans, shared weights, and when this engine is used."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from small_networks import small_encoder, small_generator
from styleclip_export.convert import onnx_export, openvino_export
from styleclip_export.convert.accuracy import Accuracy
from styleclip_export.convert.comparison import compute_references
from styleclip_export.convert.network_variants import e4e_variants, stylegan2_variants
from styleclip_export.errors import ConversionError
from styleclip_server.engines.cpu import supports_bfloat16
from styleclip_server.engines.openvino import OpenvinoNetwork, PrecisionPart
from styleclip_server.serving import installation
from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.options import Options, default_repository
from styleclip_server.serving.preflight import check

NAMES = ("stylegan2", "e4e")
FLOAT32 = [PrecisionPart("f32")]


@pytest.fixture(scope="module")
def networks():
    """The variants of small networks by name."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator = small_generator(64, w_dim=512).eval()
        encoder = small_encoder(generator.num_latents, 512).eval()
    return {
        "stylegan2": stylegan2_variants(generator),
        "e4e": e4e_variants(encoder, generator),
    }


@pytest.fixture(scope="module")
def write_files(networks):
    """A function that writes both files of a network; it returns the provenance of OpenVINO's."""
    references = {
        name: compute_references(variants.reference, variants.draw_inputs, (1, 2))
        for name, variants in networks.items()
    }

    def write(folder, name, **changes):
        variants = replace(networks[name], **changes)
        onnx_export.write(replace(variants, bound=1.0), references[name], folder, print)
        return openvino_export.write(variants, references[name], folder, print)

    return write


@pytest.fixture(scope="module")
def files(write_files, tmp_path_factory):
    """The path of OpenVINO's file of each network."""
    folders = {name: tmp_path_factory.mktemp(name) for name in NAMES}
    for name, folder in folders.items():
        write_files(folder, name)
    return {name: folder / "model.openvino.onnx" for name, folder in folders.items()}


def infer(path, variants, batch, plan=None):
    tensors = zip(variants.model.inputs, variants.draw_inputs(batch), strict=True)
    return OpenvinoNetwork(path, plan=plan)({t.name: x.numpy() for t, x in tensors})[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("float16", [False, True])
def test_large_weights_are_stored_only_in_the_external_file(
    write_files, files, name, float16, tmp_path
):
    path = files[name]
    if float16:
        write_files(tmp_path, name, float16_weights=True)
        path = tmp_path / path.name
    stored_here = onnx.load(path, load_external_data=False).graph.initializer
    outside = [t for t in stored_here if t.data_location == TensorProto.EXTERNAL]
    assert outside and max(len(t.raw_data) for t in stored_here) < 50_000
    read = {t.name: t.raw_data for t in onnx.load(path).graph.initializer}
    shared = {t.name: t.raw_data for t in onnx.load(path.with_name("model.onnx")).graph.initializer}
    assert all(read[t.name] == shared[t.name] for t in outside)


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_matches_pytorch(networks, files, name):
    variants = networks[name]
    output = infer(files[name], variants, 3, FLOAT32)
    with torch.no_grad():
        expected = variants.reference(*variants.draw_inputs(3)).numpy()
    assert np.abs(output.astype(float) - expected).max() <= (1 if name == "stylegan2" else 1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_every_plan_splits_the_network_into_parts_with_the_same_output(networks, files, name):
    """All parts in float32, so that a part with wrong inputs is seen."""
    path = files[name]
    expected = infer(path, networks[name], 2, FLOAT32).astype(float)
    graph = onnx.load(path, load_external_data=False)
    plans = list(openvino_export.bfloat16_plans(graph, name))
    assert len(plans) == {"stylegan2": 4, "e4e": 3}[name]
    for where, plan in plans:
        exact = [PrecisionPart("f32", part.end_tensors) for part in plan]
        difference = np.abs(infer(path, networks[name], 2, exact) - expected).max()
        assert difference <= (1 if name == "stylegan2" else 1e-5), where


@pytest.mark.skipif(not supports_bfloat16(), reason="needs a CPU with bfloat16")
@pytest.mark.parametrize("name", NAMES)
def test_the_first_plan_within_the_bound_is_the_one_that_runs(
    networks, write_files, name, tmp_path
):
    values = iter((50, 10, 30))
    accuracy = Accuracy("value", lambda *_: next(values), 20, lower_is_better=True)
    provenance = write_files(tmp_path, name, accuracy=accuracy)
    assert [trial["used"] for trial in provenance["tried"]] == [False, True]
    path = tmp_path / "model.openvino.onnx"
    by_plan = infer(path, networks[name], 1, provenance["plan"])
    assert np.array_equal(infer(path, networks[name], 1), by_plan)
    exact = infer(path, networks[name], 1, FLOAT32)
    assert not np.array_equal(infer(path, networks[name], 1), exact)

    unreachable = Accuracy("value", lambda *_: 1.0, 0.0, lower_is_better=True)
    assert not write_files(tmp_path, name, accuracy=unreachable)["plan"]
    assert np.array_equal(infer(path, networks[name], 1), exact)


def test_a_file_that_misses_its_bound_is_not_written(write_files, tmp_path):
    with pytest.raises(ConversionError, match="OpenVINO differs from PyTorch"):
        write_files(tmp_path, "e4e", bound=0.0)
    assert not (tmp_path / "model.openvino.onnx").exists()


def test_a_missing_tensor_is_named(files):
    plan = [PrecisionPart("bf16", ["nowhere"]), *FLOAT32]
    with pytest.raises(RuntimeError, match="no tensor nowhere"):
        OpenvinoNetwork(files["e4e"], plan=plan)


def test_a_domain_without_openvino_files_is_served_by_onnx_runtime(monkeypatch, tmp_path):
    monkeypatch.setattr(installation, "supports_bfloat16", lambda: True)
    avatars = default_repository() / "avatars"
    if not installation.Path("/dev/nvidiactl").exists():
        assert installation.fastest_engine(avatars) == "openvino"
        assert installation.fastest_engine(tmp_path) == "cpu"
    domain = tmp_path / "avatars"
    domain.mkdir()
    (domain / "domain.json").write_text("{}")
    options = Options(default_repository(), domains=tmp_path, domain="avatars", networks="openvino")
    with pytest.raises(ServerStartFailed, match="convert it again"):
        check(options)
