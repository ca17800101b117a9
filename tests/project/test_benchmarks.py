"""The benchmarks run, write their results, and refuse wrong options."""

import json
import re

import pytest
import torch
import yaml
from click.testing import CliRunner
from PIL import Image

import e4e_formulas
import stylegan2_formulas
from paths import ROOT
from small_networks import small_clip, small_encoder, small_generator, small_inverter
from styleclip_contract import wire
from styleclip_export.checkpoints.domain_files import DomainNetworks
from styleclip_export.checkpoints.feature_editors import FeatureEditorCheckpoint
from styleclip_networks.sfe import FeatureFuser
from styleclip_server.pipeline.detection import Detection
from tools.bench import (
    faces_on_device,
    feature_networks,
    fs3,
    gpu_networks,
    networks_from_onnx,
    plots,
    random_domain,
    server,
)


def test_the_networks_are_measured_in_small_sizes_on_a_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_networks, "OUT", tmp_path)
    options = ["--device", "cpu", "--small", "--batches", "1,2", "--repeat", "1"]
    result = CliRunner().invoke(gpu_networks.main, [*options, "--variants", "published,eager"])
    assert result.exit_code == 0, result.output
    rows = json.loads(next(tmp_path.glob("*.json")).read_text())["rows"]
    assert {row["network"] for row in rows} == {"stylegan2", "e4e", "clip_text"}
    for row in rows:
        assert row["psnr"] > {"fp32": 60, "fp16": 40, "bf16": 20}[row["dtype"]], row


def test_edits_of_features_are_measured_in_small_sizes_on_a_cpu(monkeypatch):
    for formulas in (e4e_formulas, stylegan2_formulas):  # kernels are slow in the interpreter
        formulas.replace_kernels(monkeypatch)
    options = ["--device", "cpu", "--small", "--repeat", "1"]
    result = CliRunner().invoke(feature_networks.main, options)
    assert result.exit_code == 0, result.output
    accuracy = re.findall(r"(?:edit, features|inversion) .* (\d+\.\d) *$", result.output, re.M)
    assert len(accuracy) == 4 and all(float(db) > 40 for db in accuracy), result.output


@pytest.mark.parametrize("benchmark", [gpu_networks, feature_networks])
def test_the_gpu_benchmarks_report_a_missing_gpu(benchmark):
    result = CliRunner().invoke(benchmark.main, [])
    assert result.exit_code == 1 and "--device cpu --small" in result.output


def test_fs3_is_measured_in_small_sizes_on_a_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(fs3, "OUT", tmp_path)
    options = [
        "--device",
        "cpu",
        "--small",
        "--images",
        "2",
        "--channels",
        "1",
        "--preview",
        "32",
        "--variant",
        "folded",
    ]
    fs3.main([*options, "--no-half"], standalone_mode=False)
    data = json.loads(next(tmp_path.glob("*.json")).read_text())
    assert data["rows"][0]["seconds"] > 0 and data["cosines"]["0"][0] > 0.9999


def test_the_arithmetic_of_fs3_matches_the_published_sizes():
    generator, clip = fs3.build_networks("meta", small=False)
    assert sum(rows for _, rows in fs3.first_rows(generator)) == 6048
    # The table of docs/notes/gpu-kernels.md without the blur.
    assert round(sum(fs3.count_macs(generator)) / 1e9, 1) == 74.3
    assert round(fs3.count_clip_macs(clip) / 1e9, 1) == 4.4


def test_every_plot_is_written(tmp_path):
    def row(model, n):
        steps = {"stylegan2": {"queue_ms": 0.1, "compute_ms": 30.0}}
        return {"model": model, "concurrency": n, "per_second": 20.0 + n, "p50": 40.0 * n,
                "models": steps if model == "edit" else {}}  # fmt: skip

    run = {
        "results": [row(m, n) for m in ("edit", "baseline") for n in (1, 2)]
        + [{"model": "edit", "concurrency": 64, "refused": True}],
        "growth": {
            "batch": [{"batch": 1, "ms": 9.0}, {"batch": 2, "ms": 17.0}],
            "resolution": [{"resolution": 64, "ms": 9.0}, {"resolution": 128, "ms": 20.0}],
            "edits": [{"edits": 1, "known": 9.0, "new": 99.0}],
        },
    }
    plots.write_plots(run, tmp_path)
    names = {"latency-throughput", "time-per-model", "cost-batch", "cost-resolution", "cost-edits"}
    assert {path.stem for path in tmp_path.glob("*.png")} == names


def test_wrong_options_are_refused():
    for option, value in (("--models", "edit,edti"), ("--concurrency", "1;2")):
        result = CliRunner().invoke(server.main, [option, value])
        assert result.exit_code == 2 and value.split(",")[-1] in result.output


def test_the_model_analyzer_configuration_lists_the_networks():
    config = yaml.safe_load((ROOT / "tools/bench/model_analyzer.yaml").read_text())
    assert (ROOT / config["model_repository"]).is_dir()
    assert set(config["profile_models"]) == {model.name for model in wire.NETWORKS}


def test_a_random_domain_of_weights_alone_has_them_under_their_names(tmp_path):
    generator, encoder, clip = small_generator(), small_encoder(), small_clip()
    w_avg = torch.ones(generator.num_latents, generator.w_dim)
    inverter, editor = small_inverter(generator.num_latents), FeatureFuser(32, units=1)
    networks = DomainNetworks(
        generator, encoder, clip, w_avg, w_avg[0],
        feature_editor=FeatureEditorCheckpoint(inverter, editor),
    )  # fmt: skip
    random_domain.write_weights(networks, tmp_path)
    first, second = networks_from_onnx.read_feature_networks(tmp_path)
    assert second.own_latent and torch.equal(first.w_avg, w_avg)
    for written, module in ((inverter, first.inverter), (editor, second.editor)):
        state = written.state_dict()
        assert all(torch.equal(state[name], value) for name, value in module.state_dict().items())
    read = networks_from_onnx.read_networks(tmp_path)
    assert torch.equal(read.w_avg, w_avg)
    for written, module in ((generator, read.generator), (encoder, read.encoder)):
        state = module.state_dict()
        assert state.keys() == written.state_dict().keys()
        assert all(torch.equal(state[name], value) for name, value in written.state_dict().items())
    assert torch.equal(read.clip.text_projection, clip.text_projection)


def test_dlibs_answers_are_kept_by_the_pixels_of_the_photo(monkeypatch, tmp_path):
    kept, face = tmp_path / "answers.json", Detection((1, 2, 3, 4), 0.5, 6)
    dark, light = Image.new("RGB", (4, 4)), Image.new("RGB", (4, 4), "white")
    searched = []

    def detect(image):
        searched.append(image.getpixel((0, 0))[0])
        return [face] if image is dark else []

    monkeypatch.setattr(faces_on_device, "detect_all_faces", detect)
    assert faces_on_device.official_answers([dark], kept) == [[face]]
    assert faces_on_device.official_answers([light, dark.copy()], kept) == [[], [face]]
    assert searched == [0, 255]
