"""The committed model repository is what the contract and the exporter say."""

import hashlib
import json
import shutil
from itertools import pairwise

import numpy as np
import pytest

from paths import ROOT
from styleclip_contract import wire
from styleclip_export import cli
from styleclip_server.engines import gpus
from styleclip_server.engines.engine import ENGINES, OVERLAY_ENGINES
from styleclip_server.engines.model_files import FACE_TO_FEATURES_FILE, FEATURES_TO_IMAGE_FILE
from styleclip_server.pipeline.style_statistics import load_statistics
from styleclip_server.serving import configs, model_repository
from styleclip_server.serving.domain_folder import load_domain

REPOSITORY = ROOT / "model_repository"


@pytest.mark.parametrize("domain", [None, *model_repository.domains(REPOSITORY)])
def test_every_committed_config_is_up_to_date(domain):
    for path, text in model_repository.config_files(REPOSITORY, domain).items():
        assert path.read_text("utf-8") == text, f"{path}: run `styleclip-export configs`"


def test_the_repository_has_every_model_of_the_contract():
    for folder, models in (("steps", wire.STEPS), ("avatars", wire.NETWORKS)):
        names = {path.parent.name for path in (REPOSITORY / folder).glob("*/config.pbtxt")}
        assert names == {model.name for model in models}


def test_no_ensemble_output_feeds_a_later_step():
    for name, steps in configs.ENSEMBLE_STEPS.items():
        outputs = {tensor.name for tensor in wire.MODELS[name].outputs}
        for step in steps:
            assert not outputs & {tensor.name for tensor in step.inputs}, (name, step.name)


def test_every_ensemble_is_one_chain():
    """Triton 2.51 leaks a request if one of its steps fails while another is running."""
    for name, steps in configs.ENSEMBLE_STEPS.items():
        for before, after in pairwise(steps):
            outputs = {tensor.name for tensor in before.outputs}
            assert outputs & {tensor.name for tensor in after.inputs}, (name, after.name)


@pytest.mark.parametrize("name", ["edit", "edit_photo"])
def test_only_pytorch_renders_for_compose(name):
    """And gets what `compose` gets, to know whether a JPEG file will do."""
    model = wire.MODELS[name]
    for engine in ENGINES:
        config = configs.step_config(model, engine)
        steps = {step.model_name: step for step in config.ensemble_scheduling.step}
        generator, compose = steps["stylegan2"], steps["compose"]
        torch = engine == "torch"
        encoding = {"PASTE", "FORMAT", "QUALITY"} & {tensor.name for tensor in model.inputs}
        assert set(generator.input_map) == {"W_PLUS", "DELTA"} | (encoding if torch else set())
        assert dict(generator.output_map) == {"RENDER" if torch else "IMAGE": "IMAGE"}
        assert compose.input_map["IMAGE"] == "IMAGE"


def test_beside_pytorch_a_gpu_aligns_photos(monkeypatch, tmp_path):
    def align_of(engine):
        config = configs.step_config(wire.ALIGN_MODEL, engine)
        return config.parameters["faces"].string_value, config.instance_group[0].count

    monkeypatch.setattr(gpus, "_DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("STYLECLIP_FACES", raising=False)
    assert align_of("torch") == ("", 4)  # without a GPU
    (tmp_path / "nvidia0").touch()
    assert align_of("torch") == ("cuda", 2)
    for faces, expected in (("nvjpeg", ("nvjpeg", 2)), ("dlib", ("", 4))):
        monkeypatch.setenv("STYLECLIP_FACES", faces)
        assert align_of("torch") == expected
        assert {align_of(engine)[0] for engine in ENGINES if engine != "torch"} == {""}


def test_beside_several_gpus_there_are_more_instances(monkeypatch, tmp_path):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    monkeypatch.setattr(gpus, "_DEVICES", tmp_path)
    monkeypatch.delenv("STYLECLIP_FACES", raising=False)

    def instances(model, engine="torch"):
        (group,) = configs.step_config(model, engine).instance_group
        return group.count

    for visible, count in ((None, 2), ("0", 1), ("0,1", 2), ("", 0)):
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert gpus.count_gpus() == count
        assert instances(wire.COMPOSE) == 4 * max(1, count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert (instances(wire.DIRECTION), instances(wire.COMPOSE, "cpu")) == (4, 2)


def test_the_domain_and_its_statistics_fit_together():
    domain = load_domain(REPOSITORY / "avatars")
    statistics = load_statistics(REPOSITORY / "avatars", domain.style_channels)
    assert domain.style_size == len(statistics.style_std)
    lengths = np.linalg.norm(statistics.fs3, axis=1)
    assert np.all((abs(lengths - 1) < 1e-3) | (lengths == 0))
    assert len(domain.presets) >= 4 and domain.num_latents == 14


def test_the_shipped_files_are_small_and_match_their_provenance():
    for folder, megabytes in (("avatars", 40), ("people", 45)):
        domain = REPOSITORY / folder
        sizes = {p: p.stat().st_size for p in domain.rglob("*") if p.is_file()}
        features = sum(sizes[p] for p in sizes if p.is_relative_to(domain / "features"))
        assert features <= 25e6 and sum(sizes.values()) - features <= megabytes * 1e6
        assert max(sizes.values()) <= 20e6
    for path in REPOSITORY.glob("*/*/1/provenance.json"):
        provenance = json.loads(path.read_text("utf-8"))
        if path.parts[-3] == "features":
            for file in (FACE_TO_FEATURES_FILE, FEATURES_TO_IMAGE_FILE):
                model = path.with_name(file).read_bytes()
                assert provenance[file]["sha256"] == hashlib.sha256(model).hexdigest()
            continue
        model = path.with_name("model.onnx").read_bytes()
        assert provenance["sha256"] == hashlib.sha256(model).hexdigest()
        assert {error["batch"] for error in provenance["errors"]} == {1, 2, 8}
        assert max(error["largest"] for error in provenance["errors"]) <= provenance["bound"]


@pytest.fixture
def network(tmp_path):
    """The folder of `stylegan2` in a domain without versions."""
    (tmp_path / "avatars").mkdir()
    shutil.copy(REPOSITORY / "avatars/domain.json", tmp_path / "avatars")
    return tmp_path / "avatars" / "stylegan2"


def link_models(folder, domain, engine):
    model_repository.link_models(folder, REPOSITORY / "steps", domain, engine)
    return (folder / "stylegan2" / "config.pbtxt").read_text("utf-8")


@pytest.mark.parametrize(
    ("engine", "file"), [("gpu", "model.fp16.onnx"), ("openvino", "model.openvino.onnx")]
)
def test_a_config_names_the_file_of_its_engine_where_the_newest_version_has_it(
    network, tmp_path, engine, file
):
    for number, (files, expected) in enumerate((({}, False), ({file: b""}, True), ({}, False))):
        model_repository.add_version(network, {"model.onnx": b"", **files})
        for tried in ENGINES:
            config = link_models(tmp_path / f"{tried}{number}", network.parent, tried)
            named = f'default_model_filename: "{file}"' in config
            assert named == (expected and tried == engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_every_version_is_linked_from_a_read_only_repository(network, tmp_path, engine):
    for content in (b"1", b"2"):
        model_repository.add_version(network, {"model.onnx": content, "model.py": b"old"})
    served = tmp_path / "served"
    link_models(served, network.parent, engine)
    assert {path.name for path in served.iterdir()} == set(wire.MODELS)
    for version in ("1", "2"):
        folder = served / "stylegan2" / version
        assert (folder / "model.onnx").read_bytes() == version.encode()
        python = (folder / "model.py").read_text()
        assert ("serving.backends.torch" in python) == (engine == "torch")
        assert (network / version / "model.py").read_bytes() == b"old"
        assert (served / "edit" / "1").is_dir()


def test_a_queue_length_applies_to_every_model_except_ensembles(network, tmp_path):
    model_repository.add_version(network, {"model.onnx": b""})
    served = tmp_path / "served"
    model_repository.link_models(served, REPOSITORY / "steps", network.parent, "cpu", 99)
    ensembles = {model.name for model in wire.ENSEMBLES}
    for name in wire.MODELS:
        config = (served / name / "config.pbtxt").read_text("utf-8")
        assert ("max_queue_size: 99\n" in config) == (name not in ensembles)


def test_the_command_writes_what_a_stock_triton_reads_and_overlays_on_request(network, tmp_path):
    where = ["configs", "--repository", str(tmp_path)]
    assert cli.run(where) == 0
    assert {path.name for path in tmp_path.rglob("*.pbtxt")} == {"config.pbtxt"}
    assert cli.run([*where, *(f"--flavour={engine}" for engine in OVERLAY_ENGINES)]) == 0
    for model in wire.MODELS:
        (folder,) = tmp_path.glob(f"*/{model}")
        overlays = {path.stem for path in (folder / "configs").glob("*.pbtxt")}
        assert overlays == set(OVERLAY_ENGINES)
    assert "KIND_CPU" in (network / "configs/cpu.pbtxt").read_text()
    assert "KIND_GPU" in (network / "config.pbtxt").read_text()


def test_a_new_version_is_added_beside_the_old_one(tmp_path):
    assert model_repository.add_version(tmp_path, {"model.onnx": b"1"}) == 1
    assert model_repository.add_version(tmp_path, {"model.onnx": b"2"}) == 2
    assert (tmp_path / "1/model.onnx").read_bytes() == b"1"
    with pytest.raises(OSError):
        model_repository.add_version(tmp_path, {"no/such/folder": b"3"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


@pytest.mark.parametrize(("num_latents", "count"), [(14, 2), (18, 1)])
def test_a_large_encoder_runs_once_on_a_cpu(num_latents, count):
    description = json.dumps(
        {
            "name": "x",
            "title": "x",
            "defaults": {"neutral": "a face", "strength": 1, "threshold": 0.1},
            "num_latents": num_latents,
            "style_channels": [8] * 26,
            "resolution": 1024,
        }
    )
    config = configs.network_config(wire.E4E, description, "cpu", {"model.onnx"})
    assert config.instance_group[0].count == count
    generator = configs.network_config(wire.STYLEGAN2, description, "cpu", {"model.onnx"})
    assert generator.instance_group[0].count == 2
