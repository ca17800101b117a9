"""docs/wire.md and README are true: tables as the contract has them, commands run as they stand."""

import io
import re
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from styleclip_client import Client
from styleclip_contract import errors, wire

ROOT = Path(__file__).resolve().parents[2]
WIRE = (ROOT / "docs/wire.md").read_text("utf-8")
README = (ROOT / "README.md").read_text("utf-8")
# What only the client itself says.
OWN = {
    errors.InvalidInput, errors.UnknownPreset, errors.InvalidRecipe, errors.BatchMismatch,
    errors.ServerUnavailable, errors.ServerBusy, errors.ClusterUnavailable, errors.AccessRefused,
    errors.DeadlineExceeded,
}  # fmt: skip


def cell(tensor):
    return f"(`{tensor.name}`)" if tensor.optional else f"`{tensor.name}`"


def below(kind):
    for each in kind.__subclasses__():
        yield each
        yield from below(each)


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def shell(server, tmp_path):
    """Runs commands on the server in a folder with the samples, and returns what they print."""
    (tmp_path / "demo").symlink_to(ROOT / "demo")

    def run(script):
        script = script.replace("localhost:8000", server.http_url)
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=tmp_path,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode()

    return run


def test_the_tables_are_the_contracts():
    for model in (*wire.MODELS.values(), wire.TORCH_STYLEGAN2):
        inputs, outputs = (
            ", ".join(map(cell, tensors)) for tensors in (model.inputs, model.outputs)
        )
        assert f"| `{model.name}` | {model.kind} | {inputs} | {outputs} |\n" in WIRE
        for tensor in (*model.inputs, *model.outputs):
            row = f"| `{tensor.name}` | {tensor.datatype} | {list(tensor.shape)} | {tensor.doc} |\n"
            assert row in WIRE


def test_each_error_of_the_server_is_told_with_its_status():
    for kind in set(below(errors.StyleclipError)) - OWN:
        theirs = issubclass(kind, errors.InvalidInput)
        status = "INVALID_ARGUMENT | 400" if theirs else "INTERNAL | 500"
        assert f"| `{kind.__name__}` | {status} | {kind.__doc__.splitlines()[0]} |\n" in WIRE


def test_curl_does_what_the_client_does(server, shell, tmp_path):
    told = shell("\n".join(blocks(WIRE, "sh")))
    assert told.startswith("ready\n")
    for text in blocks(WIRE, "text"):
        assert text.strip() in told
    photo = ROOT / "demo/samples/avatar-1.png"
    with Client(server.grpc_url) as client:
        domain = client.domain()
        sunglasses = domain.edit("a face with sunglasses", strength=5, threshold=0.15)
        assert (tmp_path / "sunglasses.jpg").read_bytes() == client.edit_photo(
            photo, sunglasses
        ).picture
        both = [
            domain.edit("a sad face", strength=4, threshold=0.15),
            domain.edit("a face with a beard", strength=5, threshold=0.15),
        ]
        expected = client.edit(client.invert(photo).w_plus, both, format="PNG").picture
        assert (tmp_path / "two-edits.png").read_bytes() == expected


def test_the_readmes_curl_edits_a_picture(shell, tmp_path):
    (section,) = re.findall(r"^## With curl\n(.*?)^## ", README, re.DOTALL | re.MULTILINE)
    shell("\n".join(blocks(section, "sh")))
    picture = Image.open(io.BytesIO((tmp_path / "sunglasses.jpg").read_bytes()))
    assert (picture.format, picture.size) == ("JPEG", (256, 256))
