"""The committed model repository is what the contract and the exporter say."""

import hashlib
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from styleclip_contract import wire
from styleclip_server.pipeline.domain_folder import load_domain
from styleclip_server.pipeline.style_statistics import load_statistics
from styleclip_server.serving import configs

REPOSITORY = Path(__file__).resolve().parents[2] / "model_repository"


@pytest.mark.parametrize("domain", [None, *configs.domains(REPOSITORY)])
def test_every_config_is_as_the_contract_generates_it(domain):
    for path, text in configs.config_files(REPOSITORY, domain).items():
        assert path.read_text("utf-8") == text, f"{path}: run `styleclip-export configs`"


def test_the_repository_holds_every_model_of_the_contract():
    for folder, models in (("steps", wire.STEPS), ("avatars", wire.NETWORKS)):
        found = {path.parent.name for path in (REPOSITORY / folder).glob("*/config.pbtxt")}
        assert found == {model.name for model in models}


def test_no_ensemble_output_feeds_a_later_step():
    for name, steps in configs.ENSEMBLES.items():
        outputs = {tensor.name for tensor in wire.MODELS[name].outputs}
        for step in steps:
            assert not outputs & {tensor.name for tensor in step.inputs}, (name, step.name)


def test_every_ensemble_is_one_chain():
    """Triton 2.51 never frees a request of which one step fails while another runs beside it."""
    for name, steps in configs.ENSEMBLES.items():
        for before, after in pairwise(steps):
            made = {tensor.name for tensor in before.outputs}
            assert made & {tensor.name for tensor in after.inputs}, (name, after.name)


@pytest.mark.parametrize("name", ["edit", "edit_photo"])
def test_pytorch_alone_is_asked_for_jpeg(name):
    """And told what for: `compose` gets the file, and pixels only where there is none."""
    model = wire.MODELS[name]
    for flavour in configs.FLAVOURS:
        config = configs.step_config(model, flavour)
        steps = {step.model_name: step for step in config.ensemble_scheduling.step}
        draw, compose = steps["stylegan2"], steps["compose"]
        encodes = flavour == "torch"
        told = {"PASTE", "FORMAT", "QUALITY"} & {tensor.name for tensor in model.inputs}
        assert set(draw.input_map) == {"W_PLUS", "DELTA"} | (told if encodes else set())
        made = {"JPEG": "JPEG", "UNENCODED": "IMAGE"} if encodes else {"IMAGE": "IMAGE"}
        assert dict(draw.output_map) == made
        assert ("JPEG" in compose.input_map) == encodes
        assert compose.input_map["IMAGE"] == "IMAGE"


def test_the_domain_and_its_statistics_fit_together():
    domain = load_domain(REPOSITORY / "avatars")
    statistics = load_statistics(REPOSITORY / "avatars", domain.style_channels)
    assert domain.style_size == len(statistics.style_std)
    lengths = np.linalg.norm(statistics.fs3, axis=1)
    assert np.all((abs(lengths - 1) < 1e-3) | (lengths == 0))
    assert len(domain.presets) >= 4 and domain.num_latents == 14


def test_the_shipped_files_are_small_and_what_their_provenance_says():
    sizes = [path.stat().st_size for path in REPOSITORY.rglob("*") if path.is_file()]
    assert sum(sizes) <= 40e6 and max(sizes) <= 20e6
    for path in REPOSITORY.glob("avatars/*/1/provenance.json"):
        provenance = json.loads(path.read_text("utf-8"))
        model = path.with_name("model.onnx").read_bytes()
        assert provenance["sha256"] == hashlib.sha256(model).hexdigest()
        assert {error["batch"] for error in provenance["errors"]} == {1, 2, 8}
        assert max(error["largest"] for error in provenance["errors"]) <= provenance["bound"]


def test_a_gpu_runs_the_float16_file_where_there_is_one(tmp_path):
    (tmp_path / "avatars").mkdir()
    (tmp_path / "avatars/domain.json").write_bytes(
        (REPOSITORY / "avatars/domain.json").read_bytes()
    )
    folder = tmp_path / "avatars" / "stylegan2"
    named = 'default_model_filename: "model.fp16.onnx"'
    for files, expected in (({}, False), ({configs.HALF_FILE: b""}, True), ({}, False)):
        configs.add_version(folder, {"model.onnx": b"", **files})
        texts = configs.config_files(tmp_path, "avatars")
        assert (named in texts[folder / "config.pbtxt"]) == expected
        others = [text for path, text in texts.items() if path != folder / "config.pbtxt"]
        assert not any(named in text for text in others)


def test_a_new_version_is_added_beside_the_old_one(tmp_path):
    assert configs.add_version(tmp_path, {"model.onnx": b"1"}) == 1
    assert configs.add_version(tmp_path, {"model.onnx": b"2"}) == 2
    assert (tmp_path / "1/model.onnx").read_bytes() == b"1"
    with pytest.raises(OSError):
        configs.add_version(tmp_path, {"no/such/folder": b"3"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]
