"""The page in a real browser (Debian's Chromium, headless) against the real server."""

import hashlib
import io
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

import pytest
from PIL import Image

pytest.importorskip("streamlit", reason="the page's packages are missing: make ui")
sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is missing: make test")
expect = sync_api.expect
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
if not CHROMIUM:
    pytest.skip(
        "the page's tests need Chromium: `apt-get install chromium`, or its path in CHROMIUM",
        allow_module_level=True,
    )

ROOT = Path(__file__).resolve().parent.parent
SAMPLE = ROOT / "demo/samples/avatar-3.png"
WAIT = 30_000  # milliseconds


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def running_page(address, log):
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    with log.open("w") as said:
        process = subprocess.Popen(
            [*command, "--", "--server", address],
            cwd=ROOT / "streamlit-ui",
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        opener, deadline = build_opener(ProxyHandler({})), time.monotonic() + 60
        while True:
            try:
                opener.open(f"{url}/_stcore/health", timeout=5)
                break
            except (URLError, OSError):
                assert process.poll() is None and time.monotonic() < deadline, log.read_text()
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(server, tmp_path_factory):
    with running_page(server.grpc_url, tmp_path_factory.mktemp("page") / "page.log") as url:
        yield url


@pytest.fixture
def page(browser, url):
    context = browser.new_context(accept_downloads=True)
    page = context.new_page()
    page.goto(url)
    expect(page.locator("img.after")).to_have_attribute("src", re.compile("^data:"), timeout=WAIT)
    settle(page)
    yield page
    context.close()


def settle(page):
    """Wait until the page has nothing left to draw."""
    page.wait_for_timeout(300)
    expect(page.get_by_test_id("stApp")).to_have_attribute(
        "data-test-script-state", "notRunning", timeout=WAIT
    )


def after(page):
    """What stands for the edited picture: a digest, for messages that can be read."""
    return hashlib.sha256(page.locator("img.after").get_attribute("src").encode()).hexdigest()


def wait_for(page, condition):
    """Wait until `condition` holds for the edited picture; return it."""
    deadline = time.monotonic() + WAIT / 1000
    while not condition(after(page)):
        assert time.monotonic() < deadline, "the picture did not become the expected one"
        page.wait_for_timeout(50)
    settle(page)
    return after(page)


def changed(page, old):
    """The picture once it is another one than `old`."""
    return wait_for(page, lambda now: now != old)


def slider(page, name, number=0):
    return page.get_by_role("slider", name=name).nth(number)


def press(page, name, key, times=1, number=0):
    slider(page, name, number).focus()
    for _ in range(times):
        page.keyboard.press(key)


def downloaded(page, name):
    with page.expect_download(timeout=WAIT) as waiting:
        page.get_by_role("button", name=name, exact=True).click()
    return waiting.value


def test_the_first_look_is_an_edited_sample_and_a_ready_server(page):
    expect(page.get_by_text("Server ready")).to_be_visible()
    assert not page.evaluate("() => document.querySelectorAll('.stException, .stAlert').length"), (
        "the first look shows an error"
    )
    expect(page.get_by_text(re.compile("of 3712 channels are moved"))).to_be_visible()


def test_an_upload_is_edited_stacked_kept_and_done_again_from_its_recipe(page, tmp_path):
    old = after(page)
    page.get_by_role("radio", name="Upload").click()
    page.locator(".st-key-upload input[type=file]").set_input_files(SAMPLE)
    uploaded = changed(page, old)

    press(page, "How strong", "ArrowRight", 5)
    stronger = changed(page, uploaded)

    page.get_by_role("button", name="Add another edit").click()
    settle(page)
    page.get_by_role("radio", name="Smile").or_(
        page.get_by_role("button", name="Smile", exact=True)
    ).first.click()
    stacked = changed(page, stronger)
    expect(page.get_by_text("Edit 2", exact=True)).to_be_visible()

    picture = downloaded(page, "Picture")
    assert picture.suggested_filename == "styleclip.jpg"
    image = Image.open(picture.path())
    assert (image.format, image.size) == ("JPEG", (256, 256))
    recipe = downloaded(page, "Recipe").path()
    content = json.loads(Path(recipe).read_text())
    assert [edit["target"] for edit in content["edits"]] == [
        "a face with sunglasses",
        "a smiling face",
    ]
    assert content["edits"][0]["strength"] == pytest.approx(5.5)

    page.get_by_text("Edit 2", exact=True).click()  # its toggle: off
    assert changed(page, stacked) == stronger
    page.get_by_role("button", name="Remove").first.click()
    settle(page)

    page.get_by_text("Load a recipe").click()
    saved = tmp_path / "recipe.json"
    saved.write_text(json.dumps(content))
    page.locator(".st-key-recipe input[type=file]").set_input_files(saved)
    wait_for(page, lambda now: now == stacked)


def test_moving_a_slider_asks_for_an_edit_only(page, server):
    from styleclip_client import Client

    with Client(server.grpc_url) as client:
        before = {timing.name: timing.requests for timing in client.timings()}
        old = after(page)
        press(page, "How focused", "ArrowLeft", 3)
        changed(page, old)
        now = {timing.name: timing.requests for timing in client.timings()}
    assert now["edit"] > before["edit"]
    assert now["invert"] == before["invert"]


@pytest.mark.parametrize(("name", "kind"), [("PNG", "PNG"), ("WEBP", "WEBP")])
def test_the_picture_comes_in_each_format(page, name, kind):
    old = after(page)
    page.get_by_role("radio", name=name).click()
    changed(page, old)
    assert Image.open(downloaded(page, "Picture").path()).format == kind


def test_the_sweep_comes_as_an_animated_gif(page):
    page.get_by_role("button", name="Make a GIF").click()
    expect(page.get_by_role("button", name="GIF", exact=True)).to_be_visible(timeout=WAIT)
    image = Image.open(io.BytesIO(Path(downloaded(page, "GIF").path()).read_bytes()))
    assert (image.format, image.size) == ("GIF", (256, 256))
    assert image.n_frames > 10


def test_strengths_grid_and_layers_are_drawn(page):
    page.get_by_role("radio", name="Strengths").click()
    expect(page.locator(".sweep img")).to_have_count(7, timeout=WAIT)
    page.get_by_role("radio", name="grid").click()
    expect(page.locator(".grid td img")).to_have_count(16, timeout=WAIT)
    page.get_by_role("radio", name="Layers").click()
    expect(page.get_by_text("most of them in the layer")).to_be_visible(timeout=WAIT)
    expect(page.locator(".layers tr")).to_have_count(13)


def test_the_history_leads_back(page):
    old = after(page)
    page.get_by_text("Beard", exact=True).click()
    bearded = changed(page, old)
    page.get_by_role("button", name="Back").last.click()
    assert changed(page, bearded) == old


def test_the_divider_follows_the_keyboard(page):
    divider = page.get_by_role("slider", name="Divider")
    divider.focus()
    page.keyboard.press("End")
    assert page.locator(".pictures").evaluate("e => e.style.getPropertyValue('--at')") == "100%"


def test_wrong_texts_are_told_in_words(page):
    field = page.get_by_role("textbox", name="The picture shows").first
    field.fill("a face with Sunglasses")
    field.press("Enter")
    expect(page.get_by_text("Let the two texts differ").first).to_be_visible(timeout=WAIT)
    expect(page.get_by_text("Traceback")).to_have_count(0)


def test_what_is_no_picture_is_refused_in_words(page, tmp_path):
    fake = tmp_path / "fake.png"
    fake.write_bytes(b"not a picture")
    page.get_by_role("radio", name="Upload").click()
    page.locator(".st-key-upload input[type=file]").set_input_files(fake)
    expect(page.get_by_text("Choose a JPEG, PNG or WebP picture")).to_be_visible(timeout=WAIT)


def test_a_recipe_that_is_none_is_refused_in_words(page, tmp_path):
    fake = tmp_path / "fake.json"
    fake.write_text("[]")
    page.get_by_text("Load a recipe").click()
    page.locator(".st-key-recipe input[type=file]").set_input_files(fake)
    expect(page.get_by_text("Choose a recipe that this page")).to_be_visible(timeout=WAIT)


def test_the_page_waits_for_a_server_and_survives_its_restart(browser, tmp_path):
    from styleclip_server.launcher import default_repository, running_server
    from styleclip_server.triton import Options

    ports = {f"{kind}_port": free_port() for kind in ("http", "grpc", "metrics")}
    options = Options(default_repository(), log=tmp_path / "server.log")
    options = replace(options, **ports)
    with running_page(f"127.0.0.1:{ports['grpc_port']}", tmp_path / "page.log") as url:
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        expect(page.get_by_text("No server answers")).to_be_visible(timeout=WAIT)
        with running_server(options):
            expect(page.locator("img.after")).to_be_visible(timeout=WAIT)
            old = after(page)
            press(page, "How strong", "ArrowLeft", 20)
            chosen = changed(page, old)
        expect(page.get_by_text("No server answers")).to_be_visible(timeout=WAIT)
        expect(page.get_by_text("Your picture and edits are kept")).to_be_visible()
        assert after(page) == chosen
        press(page, "How strong", "ArrowRight", 3)
        expect(page.get_by_text("tries again by itself")).to_be_visible(timeout=WAIT)
        with running_server(options):
            expect(page.get_by_text("Server ready")).to_be_visible(timeout=WAIT)
            expect(page.get_by_text("tries again by itself")).to_have_count(0, timeout=WAIT)
            assert changed(page, chosen) not in (old, chosen)
        context.close()
