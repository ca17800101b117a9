"""README.md and docs/api.md are true: their commands run as printed."""

import re
import subprocess
import zipfile

import pytest
from PIL import Image

from paths import ROOT
from styleclip_server.__main__ import command
from styleclip_server.api import problems
from styleclip_server.api.web import schemas

API = (ROOT / "docs/api.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
FORMATS = {"smiling.jpg": "JPEG", "both.webp": "WEBP", "sad.jpg": "JPEG", "sad.gif": "GIF"}


def find_curl_commands(text):
    """The commands of a document that use curl on this machine, as they are printed."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for block in blocks if "curl" in block and "localhost:8000" in block]


@pytest.fixture
def folder(tmp_path):
    """A folder in which the sample images lie as in the repository."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    (tmp_path / "README.md").symlink_to(ROOT / "README.md")
    return tmp_path


def run_block(block, server, folder):
    script = block.replace("localhost:8000", server.http_url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_curl_command_of_the_readme_gives_an_image(people_server, folder):
    (block,) = find_curl_commands(README)
    run_block(block, people_server, folder)
    assert Image.open(folder / "smiling.jpg").size == (256, 256)


def test_the_commands_in_api_md_print_what_it_shows(people_server, folder):
    output = "".join(run_block(block, people_server, folder) for block in find_curl_commands(API))
    for name, format in FORMATS.items():
        assert Image.open(folder / name).format == format
    assert zipfile.ZipFile(folder / "edited.zip").namelist() == ["people-1.jpg", "people-2.jpg"]
    assert 'data: {"done": 3, "total": 3}' in output
    assert '{"images":[{"name":"photo-1","media_type":"image/jpeg"' in output
    for text in re.findall(r"^```text\n(.*?)^```$", API, re.DOTALL | re.MULTILINE):
        assert text.strip() in output


def test_every_field_option_and_error_is_in_the_page():
    for model in (schemas.EditRequest, schemas.InvertRequest, schemas.SweepRequest):
        for name, field in model.model_fields.items():
            assert f"`{field.alias or name}`" in API
    options = {option for parameter in command.params for option in parameter.opts}
    access = API.partition("## Access and limits")[2]
    for option in re.findall(r"`(--[a-z-]+)", access):
        assert option in options, option
    for kind in problems.kinds():
        assert f"`{kind.name}`" in API or kind.status == 400, kind.name


@pytest.mark.parametrize("name", ["max-concurrent", "inside"])
def test_the_bound_on_concurrent_requests_has_its_old_name_too(name, monkeypatch):
    context = command.make_context("styleclip-server", [f"--{name}", "3"])
    assert context.params["max_concurrent"] == 3
    monkeypatch.setenv("STYLECLIP_" + name.upper().replace("-", "_"), "4")
    assert command.make_context("styleclip-server", []).params["max_concurrent"] == 4
