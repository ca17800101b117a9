"""What a newcomer reads and types is true: README, Makefile, host check."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
TARGETS = (
    "setup",
    "demo",
    "serve",
    "ui",
    "weights",
    "export",
    "test",
    "lint",
    "bench",
    "bench-gpu",
    "chaos",
    "clean",
)


@pytest.fixture
def check_host():
    spec = importlib.util.spec_from_file_location("check_host", ROOT / "tools/setup/check_host.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_link_between_the_documents_leads_to_a_file():
    for document in (ROOT / "README.md", ROOT / "NOTICE.md", *(ROOT / "docs").glob("*.md")):
        text = document.read_text("utf-8")
        for link in re.findall(r"\]\((?!https?://|#|mailto:)([^)#\s]+)", text):
            assert (document.parent / link).exists(), f"{document.name}: {link}"


def test_the_readme_names_only_files_and_commands_that_exist():
    for folder in re.findall(r"^\| `([a-z_/]+/)` \|", README, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder
    for target in re.findall(r"`make ([a-z-]+)", README):
        assert target in TARGETS, target
    for picture in re.findall(r"demo/samples/[\w.-]+", README):
        assert (ROOT / picture).is_file(), picture


def test_make_alone_lists_every_command():
    listing = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert re.findall(r"^  ([a-z-]+) +\S", listing, re.MULTILINE) == list(TARGETS)


def test_the_locks_pin_every_package_exactly():
    for name in ("server", "dev"):
        for line in (ROOT / f"requirements/{name}.txt").read_text().splitlines():
            assert line.startswith("#") or re.match(r"[\w-]+==[\w.]+( ; .+)?$", line), line


def test_this_python_can_run_the_server(check_host):
    assert check_host.find_problems() == []


@pytest.mark.parametrize("version", [(3, 9), (3, 13)])
def test_an_unsuitable_python_is_told_why_and_which_one_to_use(check_host, monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    (line,) = check_host.find_problems()
    assert "3.10 to 3.12" in line and "NumPy" in line and "PYTHON=" in line
