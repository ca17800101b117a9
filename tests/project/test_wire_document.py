"""docs/wire.md is true: its tables are the contract's, its commands run as printed."""

import os
import re
import subprocess
import sys

from paths import PERSON, ROOT
from polling import SECONDS
from styleclip_client import Client
from styleclip_contract import errors, wire

WIRE = (ROOT / "docs/wire.md").read_text("utf-8")
# Errors that only the client raises.
CLIENT_ERRORS = {
    errors.InvalidInput, errors.UnknownPreset, errors.InvalidRecipe, errors.BatchMismatch,
    errors.ServerUnavailable, errors.ServerBusy, errors.ClusterUnavailable, errors.AccessRefused,
    errors.DeadlineExceeded,
}  # fmt: skip


def cell(tensor):
    return f"(`{tensor.name}`)" if tensor.optional else f"`{tensor.name}`"


def subclasses(kind):
    for subclass in kind.__subclasses__():
        yield subclass
        yield from subclasses(subclass)


def find_blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_tables_match_the_contract():
    for model in (*wire.MODELS.values(), wire.TORCH_STYLEGAN2):
        inputs, outputs = (
            ", ".join(map(cell, tensors)) for tensors in (model.inputs, model.outputs)
        )
        assert f"| `{model.name}` | {model.kind} | {inputs} | {outputs} |\n" in WIRE
        for tensor in (*model.inputs, *model.outputs):
            shape = list(tensor.shape)
            row = f"| `{tensor.name}` | {tensor.datatype} | {shape} | {tensor.description} |\n"
            assert row in WIRE


def test_each_error_of_the_server_is_listed_with_its_status():
    invalid, internal = re.findall(r"\n\n(\| (?:400|500), .*?)(?=\n\n)", WIRE, re.DOTALL)
    assert invalid.startswith("| 400, INVALID_ARGUMENT |")
    assert internal.startswith("| 500, INTERNAL |")
    for kind in set(subclasses(errors.StyleclipError)) - CLIENT_ERRORS:
        table = invalid if issubclass(kind, errors.InvalidInput) else internal
        row = f"| `{kind.__name__}` | {kind.__doc__.splitlines()[0]} |"
        assert row in table.splitlines(), row


def test_the_curl_commands_print_what_the_page_shows(people_server):
    script = "\n".join(find_blocks(WIRE, "sh")).replace("localhost:8000", people_server.http_url)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        capture_output=True,
        timeout=SECONDS,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    output = done.stdout.decode()
    assert output.startswith("ready\n")
    for text in find_blocks(WIRE, "text"):
        assert text.strip() in output


def test_raw_http_requests_give_the_same_images_as_the_client(people_server, tmp_path):
    subprocess.run(
        [sys.executable, ROOT / "examples/kserve_http.py", tmp_path],
        env=os.environ | {"STYLECLIP_SERVER": f"http://{people_server.http_url}"},
        timeout=SECONDS,
        check=True,
    )
    with Client(people_server.grpc_url) as client:
        domain = client.domain()
        sunglasses = domain.edit("a face with sunglasses", strength=5, threshold=0.15)
        # Triton's own default, whatever the domain's is.
        expected = client.edit_photo(PERSON, sunglasses, fidelity="latent").picture
        assert (tmp_path / "sunglasses.jpg").read_bytes() == expected
        both = [
            domain.edit("a sad face", strength=4, threshold=0.15),
            domain.edit("a face with a beard", strength=5, threshold=0.15),
        ]
        expected = client.edit(client.invert(PERSON).w_plus, both, format="PNG").picture
        assert (tmp_path / "two-edits.png").read_bytes() == expected
