"""The project computes what the official code computes, and `verify` reports where it does not.

The first test runs every case of the golden folder, with weights under the official names:
networks, tokenizer, directions and alignment. STYLECLIP_GOLDEN names another folder, such as the
full one.
"""

import importlib.util
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from paths import GOLDEN
from small_networks import small_generator
from styleclip_export.cli import run
from styleclip_export.errors import VerificationError
from styleclip_export.verify import bounds
from styleclip_export.verify.folder import Folder
from styleclip_export.verify.generator import shapes_of
from styleclip_export.verify.report import compare
from styleclip_export.verify.runner import find_cases, run_case, unknown_files, verify
from styleclip_networks.latents import truncate_latents

COMPACT = Path(__file__).parents[1] / "golden"  # whatever STYLECLIP_GOLDEN names
FOLDER = Folder(GOLDEN)
CASES = find_cases(FOLDER)
LANDMARKS = importlib.util.find_spec("dlib") and importlib.util.find_spec("face_recognition_models")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_golden_case_passes(case):
    if case.name.startswith("align/") and not LANDMARKS:
        pytest.skip("the landmark model is an extra: pip install 'styleclip-triton[landmarks]'")
    rows = run_case(FOLDER, case)
    assert rows
    assert [row for row in rows if row.status not in ("pass", "missing")] == []


def test_every_golden_file_belongs_to_a_case():
    assert unknown_files(FOLDER, CASES) == []
    kinds = {re.match("[a-z]+2?", case.name)[0] for case in find_cases(Folder(COMPACT))}
    assert kinds == {"align", "clip", "direction", "fs", "stylegan2", "e", "named", "sfe"}


def test_the_bounds_are_those_of_the_golden_readme():
    """The last column of the table "Tolerance"."""
    lines = (COMPACT / "README.md").read_text("utf-8").splitlines()
    cells = [[c.strip() for c in line.split("|")] for line in lines if line.startswith("| ")]
    allowed = {row[1]: row[-2] for row in cells}
    assert float(allowed["styles, W"]) == bounds.STYLES
    assert float(allowed["StyleGAN2 image (all sizes)"]) == bounds.IMAGE
    assert float(allowed["e4e codes (std 1) / their image"]) == bounds.E4E
    assert float(allowed["feature editing, of the largest"]) == bounds.FEATURES
    assert float(allowed["latent mapper (std 1)"]) == bounds.MAPPER
    assert float(allowed["CLIP text features (std 1) / image features"]) == bounds.CLIP
    assert float(allowed["dt"]) == bounds.TEXT_DIRECTION
    assert allowed["boundaries, codes, fs3 estimation"] == "1e-5; counts exact"
    assert bounds.DIRECTION == 1e-5
    assert allowed["landmarks / quad / aligned 256"] == "exact / 1e-6 / at most 1 level"
    assert (bounds.EXACT, bounds.QUAD, bounds.ALIGNED) == (0, 1e-6, 1)
    assert (bounds.JPEG_MEAN, bounds.JPEG_LARGEST) == (1, 16)


# A folder of another seed, resolution, width and batch than the golden one, with numbers of the
# project itself: it tests which files `verify` finds and which differences it reports.


def golden_arrays(generator, average):
    """The content of a golden file for `generator` and three images."""
    rng = torch.Generator().manual_seed(3)
    w_plus = torch.randn(3, generator.num_latents, generator.w_dim, generator=rng)
    styles = generator.affine(w_plus)
    edits = np.array([[0, 3, 2.0], [4, 7, -1.5]], np.float32)
    data = {f"style_{i:02}": style.clone() for i, style in enumerate(styles)}
    data |= {"w_plus": w_plus, "edits": edits, "corners": np.array([[0, 0], [20, 32]], np.int32)}

    def add(prefix, image):
        data[f"{prefix}image64"] = F.adaptive_avg_pool2d(image, 16)
        data[f"{prefix}crop0"] = image[:, :, :24, :24]
        data[f"{prefix}crop1"] = image[:, :, 20:44, 32:56]
        data[f"{prefix}mean"] = image.mean((2, 3))
        data[f"{prefix}std"] = image.std((2, 3), correction=0)

    add("", generator.synthesis(styles))
    for index, channel, delta in edits:
        styles[int(index)][:, int(channel)] += float(delta)
    add("edit_", generator.synthesis(styles))
    data["z"] = torch.randn(2, generator.w_dim, generator=rng)
    data["w"] = generator.mapping(data["z"])
    cut = truncate_latents(data["w"][:, None].expand(-1, generator.num_latents, -1), average, 0.7)
    data["trunc_w"] = cut[:, 0]
    data["trunc_image64"] = F.adaptive_avg_pool2d(generator(cut), 16)
    return {name: np.asarray(value) for name, value in data.items()}


@pytest.fixture
@torch.inference_mode()
def folder(tmp_path):
    """A golden folder with a generator of 64 px and one photo without a face."""
    (tmp_path / "golden.json").write_text('{"format": 1, "seed": 7}')
    shutil.copy(COMPACT / "fill.py", tmp_path)
    generator = small_generator(64, w_dim=40, mapping_layers=3)
    shapes = shapes_of(generator)
    rule = Folder(tmp_path).rule
    generator.load_state_dict(rule.state_dict(shapes))
    average = rule.state_dict({"latent_avg": [40]})["latent_avg"]
    (tmp_path / "keys_stylegan2_64.json").write_text(json.dumps(shapes))
    layers = [
        {"module": s.name, "styleclip_name": s.styleclip_name, "channels": s.channels}
        for s in generator.layers
    ]
    (tmp_path / "stylegan2_64.json").write_text(json.dumps({"size": 64, "layers": layers}))
    np.savez(tmp_path / "stylegan2_64.npz", **golden_arrays(generator, average))
    (tmp_path / "align").mkdir()
    shutil.copy(COMPACT / "align" / "small160.png", tmp_path / "align" / "other.png")
    (tmp_path / "align" / "align.json").write_text('{"other": {"faces": []}}')
    return tmp_path


def change_arrays(path, **arrays):
    """Change arrays of an npz file; None removes one."""
    with np.load(path) as data:
        changed = dict(data) | arrays
    np.savez(path, **{name: array for name, array in changed.items() if array is not None})


def read_array(path, name):
    with np.load(path) as data:
        return data[name]


def verify_folder(folder, **options):
    return list(verify(Folder(folder), **options))


def failures(rows):
    return [(row.case, row.quantity) for row in rows if row.status == "fail"]


def test_other_seeds_resolutions_widths_and_batches_are_detected(folder, capsys):
    rows = verify_folder(folder)
    assert {row.status for row in rows} == {"pass"}
    assert {row.case for row in rows} == {"align/other", "stylegan2_64"}
    assert run(["verify", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"stylegan2_64 +names and shapes +0 +0 +pass", printed)
    assert "0 failed, 0 missing, 0 unknown" in printed


@pytest.mark.parametrize(
    "name, quantity",
    [
        ("style_03", "styles (14)"),
        ("image64", "image"),
        ("crop1", "image"),
        ("std", "image"),
        ("edit_crop0", "image, styles edited"),
        ("w", "w of z"),
        ("trunc_w", "w truncated"),
        ("trunc_image64", "image, w truncated"),
    ],
)
@pytest.mark.parametrize("disturbance", [2e-4, np.nan])
def test_one_changed_number_fails(folder, name, quantity, disturbance):
    path = folder / "stylegan2_64.npz"
    wrong = read_array(path, name)
    wrong.flat[wrong.size // 2] += disturbance
    change_arrays(path, **{name: wrong})
    rows = verify_folder(folder, only=["stylegan2_*"])
    assert ("stylegan2_64", quantity) in failures(rows)
    row = next(row for row in rows if row.status == "fail")
    assert name in row.note  # it says where
    assert np.isnan(disturbance) or row.error == pytest.approx(2e-4, rel=0.1)


def test_another_seed_fails_and_the_exit_status_is_1(folder, capsys):
    (folder / "golden.json").write_text('{"format": 1, "seed": 8}')
    assert run(["verify", str(folder)]) == 1
    printed = capsys.readouterr().out
    assert re.search(r"styles \(14\) +\d\S* +2.0e-05 +fail", printed)
    assert "FAILED: stylegan2_64 (styles (14))" in printed


def test_a_wrong_shape_and_a_missing_array_fail(folder):
    path = folder / "stylegan2_64.npz"
    change_arrays(path, w=read_array(path, "w")[:1], style_05=None)
    rows = verify_folder(folder, only=["stylegan2_64"])
    assert rows[-1].status == "fail" and "no array 'style_05'" in rows[-1].note
    result = compare("w", [("w", np.zeros((2, 4)), np.zeros((1, 4)))], 1.0)
    assert result.status == "fail" and "(2, 4)" in result.note and "(1, 4)" in result.note
    assert compare("nothing", [], 1.0).status == "fail"


def test_layer_names_and_tensor_names_are_compared(folder):
    described = json.loads((folder / "stylegan2_64.json").read_text())
    described["layers"][2]["styleclip_name"] = "conv9_resolution_8"
    (folder / "stylegan2_64.json").write_text(json.dumps(described))
    shapes = json.loads((folder / "keys_stylegan2_64.json").read_text())
    (folder / "keys_stylegan2_64.json").write_text(json.dumps(shapes | {"convs.9.bias": [3]}))
    rows = verify_folder(folder, only=["stylegan2_64"])
    assert failures(rows)[0] == ("stylegan2_64", "names and shapes")
    assert "convs.9.bias" in rows[0].note

    (folder / "keys_stylegan2_64.json").write_text(json.dumps(shapes))
    assert failures(verify_folder(folder, only=["stylegan2_64"])) == [("stylegan2_64", "layers")]


def test_unknown_files_arrays_and_fields_are_reported_and_listed_at_the_end(folder, capsys):
    (folder / "align" / "extra.png").write_bytes(b"")
    (folder / "motion_64.npz").write_bytes(b"")
    change_arrays(folder / "stylegan2_64.npz", surprise=np.zeros(2))
    described = json.loads((folder / "stylegan2_64.json").read_text())
    (folder / "stylegan2_64.json").write_text(json.dumps(described | {"colour": 1}))
    assert run(["verify", str(folder), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    unknown = {(r["case"], r["quantity"]) for r in report["rows"] if r["status"] == "unknown"}
    assert unknown == {
        ("align/extra.png", "file"),
        ("motion_64.npz", "file"),
        ("stylegan2_64", "stylegan2_64.npz: array surprise"),
        ("stylegan2_64", "stylegan2_64.json: field colour"),
    }
    assert report["counts"]["unknown"] == 4 and report["counts"]["fail"] == 0
    run(["verify", str(folder)])
    last = capsys.readouterr().out.replace("\n", " ")
    assert "Unknown, so not compared:" in last and "motion_64.npz (file)" in last


def test_a_described_file_that_is_absent_is_reported_as_missing(folder):
    (folder / "align" / "other.png").unlink()
    (row,) = verify_folder(folder, only=["align/*"])
    assert (row.case, row.quantity, row.status) == ("align/other", "photo", "missing")


def test_wrong_faces_of_a_photo_fail(folder):
    face = {"rect_ltrb": [1, 2, 3, 4], "score": 1.0, "landmarks": [], "quad": []}
    (folder / "align" / "align.json").write_text(json.dumps({"other": {"faces": [face]}}))
    assert failures(verify_folder(folder, only=["align/*"])) == [("align/other", "boxes")]


def test_a_damaged_file_fails_only_its_case(folder):
    (folder / "stylegan2_64.npz").write_bytes(b"PK\x03\x04 cut off")
    (folder / "align" / "align.json").write_text("[1]")
    rows = verify_folder(folder)
    assert failures(rows) == [("alignment", "the case"), ("stylegan2_64", "the case")]
    assert any("is not an npz file" in row.note for row in rows)


def test_arrays_that_are_pickled_objects_are_not_loaded(folder, tmp_path):
    class Hostile:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    change_arrays(folder / "stylegan2_64.npz", w_plus=np.array([Hostile()], dtype=object))
    rows = verify_folder(folder, only=["stylegan2_64"])
    assert "allow_pickle" in rows[-1].note and rows[-1].status == "fail"
    assert not (tmp_path / "executed").exists()


def test_a_changed_fill_rule_is_not_executed_unless_it_is_trusted(folder, capsys):
    marker = folder / "align" / "executed"
    source = (folder / "fill.py").read_text("utf-8")
    (folder / "fill.py").write_text(f"{source}\nopen({str(marker)!r}, 'w').close()\n", "utf-8")
    assert run(["verify", str(folder)]) == 1
    printed = capsys.readouterr()
    assert "fill.py is not the rule that is known" in printed.err and "--trust-fill" in printed.err
    assert printed.out == "" and not marker.exists()

    assert run(["verify", str(folder), "--only", "align/*"]) == 0  # needs no weights
    assert not marker.exists()
    assert run(["verify", str(folder), "--trust-fill", "--only", "stylegan2_*"]) == 0
    assert marker.exists()
    assert not (folder / "__pycache__").exists()


def test_a_folder_without_its_rule_or_header_is_refused(folder):
    (folder / "fill.py").unlink()
    with pytest.raises(VerificationError, match=r"fill\.py is missing"):
        verify_folder(folder)
    (folder / "golden.json").write_text('{"format": 2, "seed": 0}')
    with pytest.raises(VerificationError, match="format 1"):
        Folder(folder)
    (folder / "golden.json").unlink()
    with pytest.raises(VerificationError, match="not a golden folder"):
        Folder(folder)


def test_only_selects_cases_and_lists_the_known_ones(folder, capsys):
    rows = verify_folder(folder, only=["align/*", "nothing*"])
    assert {row.case for row in rows} == {"align/other"}
    assert run(["verify", str(folder), "--only", "e4e*"]) == 1
    assert "known: align/other, stylegan2_64" in capsys.readouterr().err


def test_a_folder_of_feature_editing_alone_has_its_own_seed(tmp_path):
    for name in ("sfe_64.json", "sfe_64.npz"):
        shutil.copy(COMPACT / name, tmp_path)
    rows = verify_folder(tmp_path)
    assert {row.status for row in rows} == {"pass"}
    pool = read_array(tmp_path / "sfe_64.npz", "edited_pool")
    change_arrays(tmp_path / "sfe_64.npz", edited_pool=pool + 0.01)
    described = json.loads((tmp_path / "sfe_64.json").read_text())
    described["keys"]["encoder.body.7.more"] = [2]
    (tmp_path / "sfe_64.json").write_text(json.dumps(described))
    assert failures(verify_folder(tmp_path)) == [
        ("sfe_64", "names and shapes"),
        ("sfe_64", "features, edited"),
    ]


@pytest.mark.parametrize("name", ["../outside.json", "/etc/passwd"])
def test_names_that_lead_out_of_the_folder_are_refused(folder, name):
    with pytest.raises(VerificationError, match="leads out of"):
        Folder(folder).path(name)
    assert not Folder(folder).has(name)


def test_oversized_shapes_are_refused_before_allocation(folder):
    shapes = json.loads((folder / "keys_stylegan2_64.json").read_text())
    shapes["style.1.weight"] = [10**9, 10**9]
    (folder / "keys_stylegan2_64.json").write_text(json.dumps(shapes))
    (row,) = verify_folder(folder, only=["stylegan2_64"])
    assert row.status == "fail" and "weights; at most" in row.note


def test_directions_and_fs3_fail_when_a_number_changes(tmp_path):
    for name in ("golden.json", "fill.py", "direction.json", "direction.npz", "fs3_estimation.npz"):
        shutil.copy(COMPACT / name, tmp_path)
    counts = json.loads((tmp_path / "direction.json").read_text())
    counts["counts"][3]["per_layer"][2] += 1
    counts["edits"][0]["num_channels"] -= 1
    (tmp_path / "direction.json").write_text(json.dumps(counts))
    path = tmp_path / "direction.npz"
    name = next(k for k in np.load(path).files if re.fullmatch(r"case\d+_codes_\d+", k))
    change_arrays(path, **{name: read_array(path, name) + np.float32(1e-4)})
    path = tmp_path / "fs3_estimation.npz"
    change_arrays(path, fs3=read_array(path, "fs3")[:, ::-1])
    rows = verify_folder(tmp_path)
    assert failures(rows) == [
        ("direction", f"channel counts ({len(counts['counts'])})"),
        ("direction", f"channels of the edits ({len(counts['edits'])})"),
        ("direction", "edited styles"),
        ("fs3_estimation", f"fs3 ({len(read_array(path, 'fs3'))} channels)"),
    ]
