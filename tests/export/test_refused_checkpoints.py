"""Wrong, broken and hostile files get one line each; nothing is executed, little memory is used.

They are read in a separate process that measures its own memory, so that a crash fails one test.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hostile_files
import read_hostile_files
from checkpoint_files import write_all
from paths import ROOT
from styleclip_export.checkpoints import encoders, generators
from styleclip_export.errors import CheckpointError

MAX_MEMORY = 200 << 20  # bytes for files of at most 33 MB
PROGRAM = Path(read_hostile_files.__file__)


def run_program(*arguments):
    """Run the program; return the JSON lines that it printed."""
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}  # for `tools`
    process = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, env=environment
    )
    assert process.returncode == 0, (process.stdout[-500:], process.stderr[-2000:])
    return [json.loads(line) for line in process.stdout.splitlines()]


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    return write_all(tmp_path_factory.mktemp("valid"))


def read_in_a_process(folder, cases):
    """Read all cases in one process; return (name, outcome) of each."""
    index, names = [], []
    for i, (name, reader, data) in enumerate(cases):
        (folder / f"{i}.file").write_bytes(data)
        index.append((reader, f"{i}.file"))
        names.append(name)
    (folder / "index.json").write_text(json.dumps(index))
    outcomes = run_program(folder)
    assert len(outcomes) == len(names)
    return list(zip(names, outcomes, strict=True))


def check_outcomes(outcomes):
    """Every file got one line that says what was expected, and used little memory."""
    wrong = [
        (name, case)
        for name, case in outcomes
        if case["error"] != "CheckpointError"
        or "\n" in case["line"]
        or "expected" not in case["line"]
        or not 40 < len(case["line"]) < 600
        or case["rise"] > MAX_MEMORY
    ]
    assert not wrong


def test_a_pickle_that_would_create_a_file_creates_none(tmp_path):
    mark = tmp_path / "executed"
    outcomes = read_in_a_process(tmp_path, hostile_files.code_execution_files(mark))
    check_outcomes(outcomes)
    assert len(outcomes) == 54 and not mark.exists()
    for name, case in outcomes:
        assert "not on the list of safe names" in case["line"], name


def test_a_file_that_claims_excessive_memory_or_time_is_refused(tmp_path):
    check_outcomes(read_in_a_process(tmp_path, hostile_files.oversized_files()))


def test_deep_nesting_does_not_crash(tmp_path):
    check_outcomes(read_in_a_process(tmp_path, hostile_files.nested_files()))


def test_arrays_that_are_not_what_they_claim_are_refused(tmp_path):
    check_outcomes(read_in_a_process(tmp_path, hostile_files.false_shape_files()))


def test_the_error_describes_an_unexpected_or_damaged_file(valid, tmp_path):
    outcomes = read_in_a_process(tmp_path, hostile_files.other_files(valid))
    check_outcomes(outcomes)
    assert all("looks like" in case["line"] for _, case in outcomes)
    looks = {name: case["line"].partition("looks like ")[2] for name, case in outcomes}
    for name, look in {
        "scripted.pt as encoder": "a CLIP checkpoint",
        "clip.pt as generator": "a CLIP checkpoint",
        "ada.pkl as clip": "NVIDIA's PyTorch pickle",
        "tensorflow.pkl as encoder": "NVIDIA's TensorFlow pickle",
        "rosinality.pt as clip": "rosinality's StyleGAN2 checkpoint",
        "fs3.npy as clip": "a NumPy array",
        "web page as clip": "a web page",
        "LFS pointer as generator": "a Git LFS pointer",
        "e4e.pt, half of it": "a truncated or damaged zip archive",
        "ada.pkl, half of it": "NVIDIA's PyTorch pickle, truncated",
    }.items():
        assert looks[name].startswith(look), (name, looks[name])


def test_corrupted_bytes_give_a_network_or_a_one_line_error(tmp_path):
    outcomes = run_program(tmp_path, "--fuzz", 300)
    assert len(outcomes) == 300
    assert {case["error"] for case in outcomes} == {"CheckpointError", "read"}
    check_outcomes([("", case) for case in outcomes if case["error"] != "read"])


def test_source_text_in_a_pickle_is_never_executed(valid):
    for path in valid["generator"][2:4]:
        assert b"SystemExit" in path.read_bytes()
        generators.read_generator(path)


@pytest.mark.parametrize("read", [generators.read_generator, encoders.read_encoder])
def test_the_error_names_a_folder_or_a_missing_file(read, tmp_path):
    with pytest.raises(CheckpointError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(CheckpointError, match="is not there"):
        read(tmp_path / "none.pt")
