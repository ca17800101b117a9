"""What a newcomer reads and types is true: documents, Makefile, host check."""

import importlib.util
import re
import subprocess
import sys

import click
import pytest

from paths import ROOT
from styleclip_client.cli import cli as client_cli
from styleclip_export.cli import command as export_command
from tools.setup import check_host

README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "NOTICE.md", "examples/README.md")),
    *(ROOT / "docs").rglob("*.md"),
]
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


def list_anchors(document):
    """The anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE)
    return {
        re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_between_the_documents_leads_to_a_file_and_a_heading(document):
    links = re.findall(
        r"\]\((?!https?://|mailto:)([^)#\s]*)(?:#([^)\s]+))?\)", document.read_text("utf-8")
    )
    for path, anchor in links:
        target = document.parent / path if path else document
        assert target.exists(), path
        assert not anchor or anchor in list_anchors(target), f"{path}#{anchor}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_program_and_path_that_a_document_names_exists(document):
    text = document.read_text("utf-8")
    for module in re.findall(r"python3? -m (tools[.\w]*|styleclip_\w+[.\w]*)", text):
        assert importlib.util.find_spec(module.rstrip(".")), module
    for target in re.findall(r"`make ([a-z-]+)", text):
        assert target in TARGETS, target
    folders = "contract|networks|server|client|export|docker|demo|docs|domains|examples|tests|tools"
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", text):
        assert (ROOT / path).exists() or path == "docker/.env", path


def test_every_command_that_a_document_names_exists():
    names = {
        "styleclip": set(client_cli.commands),
        "styleclip-export": set(export_command.list_commands(click.Context(export_command))),
    }
    used = set()
    for document in DOCUMENTS:
        text = re.sub(r"\s*\\\n\s*", " ", document.read_text("utf-8"))
        # In running text a command is code; in a block it begins a line or follows an operator.
        pattern = r"(?:`|^|&& |\| )(styleclip(?:-export)?) ([a-z]+)\b"
        for program, name in re.findall(pattern, text, re.MULTILINE):
            assert name in names[program], f"{document.name}: {program} {name}"
            used.add((program, name))
    assert len(used) > 10


def test_the_readme_names_only_folders_and_images_that_exist():
    for folder in re.findall(r"^\| `([a-z_/]+/)` \|", README, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder
    for image in re.findall(r"demo/samples/[\w.-]+", README):
        assert (ROOT / image).is_file(), image


def test_make_without_a_target_lists_every_command():
    listing = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    commands = re.findall(r"^  ([a-z-]+) +(\S.*)$", listing, re.MULTILINE)
    assert [name for name, _ in commands] == list(TARGETS)
    for name, purpose in commands:
        assert f"| `make {name}` | {purpose} |\n" in README


def test_the_locks_pin_every_package_exactly():
    for name in ("server", "dev"):
        for line in (ROOT / f"requirements/{name}.txt").read_text().splitlines():
            assert line.startswith("#") or re.match(r"[\w-]+==[\w.]+( ; .+)?$", line), line


def test_this_python_can_run_the_server():
    assert check_host.find_problems() == []


@pytest.mark.parametrize("version", [(3, 9), (3, 13)])
def test_an_unsuitable_python_gets_the_reason_and_a_fix(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", (*version, 0, "final", 0))
    (line,) = check_host.find_problems()
    assert "3.10 to 3.12" in line and "NumPy" in line and "PYTHON=" in line
