"""What a user does with the page, in a real browser (Debian's Chromium) against the real server."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("streamlit", reason="the page's packages are missing: make ui")
pytest.importorskip("playwright.sync_api", reason="playwright is missing: make test")
import numpy as np
from PIL import Image, ImageOps
from playwright.sync_api import expect

from page_state import (
    after,
    changed,
    choose,
    distance,
    downloaded,
    edited_pixels,
    pixels,
    preset,
    told,
    upload,
    wait_for,
)
from styleclip_client import Client, Recipe
from tools.browser import WAIT, free_port, press, settle

ROOT = Path(__file__).resolve().parents[2]
FIRST = ROOT / "demo/samples/avatar-1.png"  # what the page begins with
SAMPLE = ROOT / "demo/samples/avatar-3.png"
PHOTO = ROOT / "demo/samples/photo-1.jpg"


@pytest.fixture(scope="module")
def client(server):
    with Client(server.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def two_faces(tmp_path_factory):
    """A photo with one face on the left and its mirror image on the right."""
    one = Image.open(PHOTO)
    both = Image.new("RGB", (2 * one.width, one.height))
    both.paste(one, (0, 0))
    both.paste(ImageOps.mirror(one), (one.width, 0))
    path = tmp_path_factory.mktemp("photo") / "two.jpg"
    both.save(path, quality=92)
    return path


def requests(client):
    return {timing.name: timing.requests for timing in client.timings()}


def test_the_first_look_is_an_edited_sample_and_a_ready_server(page):
    told(page, "Server ready: cartoon avatars, 256 x 256, model version 1")
    told(page, re.compile("of 3712 channels are moved"))
    expect(page.locator(".stException, .stAlert")).to_have_count(0)


def test_an_upload_is_edited_stacked_kept_and_done_again_from_its_recipe(page, client, tmp_path):
    old = after(page)
    choose(page, "Upload")
    upload(page, SAMPLE)
    uploaded = changed(page, old)
    press(page, "How strong", "ArrowRight", 5)
    stronger = changed(page, uploaded)
    page.get_by_role("button", name="Add another edit").click()
    settle(page)
    preset(page, "Smile")
    stacked = changed(page, stronger)

    picture = downloaded(page, "Picture")
    assert picture.suggested_filename == "styleclip.jpg"
    image = Image.open(picture.path())
    assert (image.format, image.size) == ("JPEG", (256, 256))
    saved = tmp_path / "recipe.json"
    saved.write_bytes(Path(downloaded(page, "Recipe").path()).read_bytes())
    recipe = Recipe.from_json(saved.read_bytes())
    assert (recipe.domain, recipe.model_version) == ("avatars", "1")
    assert [edit.target for edit in recipe.edits] == ["a face with sunglasses", "a smiling face"]
    assert recipe.edits[0].strength == pytest.approx(5.5)
    command = [Path(sys.executable).with_name("styleclip"), "edit", SAMPLE, "--recipe", saved]
    subprocess.run([*command, "-o", tmp_path / "again.png", "--server", client.url], check=True)
    again = pixels((tmp_path / "again.png").read_bytes())
    assert distance(again, edited_pixels(page)) < 2  # a PNG, and the page's JPEG

    page.get_by_text("Edit 2", exact=True).click()  # its toggle: off
    assert changed(page, stacked) == stronger
    page.get_by_role("button", name="Remove").first.click()
    settle(page)
    page.get_by_text("Load a recipe").click()
    upload(page, saved, "recipe")
    wait_for(page, lambda now: now == stacked)


def test_moving_a_slider_asks_for_edits_only_and_the_last_move_counts(page, client):
    before, old = requests(client), after(page)
    divider = page.get_by_role("slider", name="Divider")
    divider.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    press(page, "How strong", "ArrowLeft", 12)  # faster than the server answers
    changed(page, old)
    sunglasses = replace(client.domain().preset("Sunglasses"), strength=3.8)
    expected = client.edit(client.invert(FIRST).w_plus, sunglasses).picture
    assert distance(pixels(expected), edited_pixels(page)) < 1
    now = requests(client)
    assert now["edit"] > before["edit"] + 1
    assert now["invert"] == before["invert"] + 1  # the one above
    assert page.locator(".pictures").evaluate("e => e.style.getPropertyValue('--at')") == "1%"


def test_the_picture_comes_in_each_format_and_the_sweep_as_an_animation(page):
    for kind, ending in (("PNG", "png"), ("WEBP", "webp")):
        choose(page, kind)
        settle(page)
        picture = downloaded(page, "Picture")
        assert picture.suggested_filename == f"styleclip.{ending}"
        assert Image.open(picture.path()).format == kind
    page.get_by_role("button", name="Make a GIF").click()
    page.get_by_role("button", name="Cancel").click()
    settle(page)
    page.get_by_role("button", name="Make a GIF").click()
    expect(page.get_by_role("button", name="GIF", exact=True)).to_be_visible(timeout=WAIT)
    image = Image.open(downloaded(page, "GIF").path())
    assert (image.format, image.size) == ("GIF", (256, 256))
    assert b"edited with StyleCLIP (AI)" in image.info["comment"]
    assert image.n_frames > 10


def test_strengths_grid_and_layers_are_drawn(page):
    choose(page, "Strengths")
    expect(page.locator(".sweep img")).to_have_count(7, timeout=WAIT)
    settle(page)
    choose(page, "grid")
    page.get_by_role("button", name="Cancel").click()
    expect(page.locator("img.after")).to_be_visible(timeout=WAIT)
    settle(page)
    choose(page, "grid")
    expect(page.locator(".grid td img")).to_have_count(16, timeout=WAIT)
    settle(page)
    choose(page, "Layers")
    told(page, "most of them in the layer")
    expect(page.locator(".layers tr")).to_have_count(13)


def test_the_history_leads_back_to_edits_and_their_picture(page):
    old = after(page)
    preset(page, "Beard")
    bearded = changed(page, old)
    page.get_by_role("button", name="2", exact=True).click()  # the second sample
    other = changed(page, bearded)
    back = page.get_by_role("button", name="Back")
    expect(back).to_have_count(3)
    back.last.click()
    assert changed(page, other) == old


def test_a_click_chooses_one_of_several_faces_and_it_is_pasted_back(page, client, two_faces):
    old = after(page)
    choose(page, "Upload")
    upload(page, two_faces)
    whole = changed(page, old)
    page.get_by_text("Find the face first", exact=True).click()
    largest = changed(page, whole)
    faces = page.get_by_role("button", name=re.compile(r"^Face \d of"))
    expect(faces.nth(1)).to_be_visible(timeout=WAIT)
    pressed = [faces.nth(n).get_attribute("aria-pressed") for n in range(2)]
    assert sorted(pressed) == ["false", "true"]
    other = pressed.index("false")
    faces.nth(other).click()
    changed(page, largest)
    expect(faces.nth(other)).to_have_attribute("aria-pressed", "true")

    right = faces.nth(other).bounding_box()["x"] > faces.nth(1 - other).bounding_box()["x"]
    crop = after(page)
    page.get_by_text("Paste back into the photo").click()
    changed(page, crop)
    edited, photo = edited_pixels(page), pixels(two_faces.read_bytes())
    halves = [distance(*(image[:, half] for image in (edited, photo)))
              for half in (slice(0, 512), slice(512, 1024))]  # fmt: skip
    assert halves[right] > 3 > halves[not right]
    assert Image.open(downloaded(page, "Picture").path()).size == (1024, 512)
    before, old = requests(client), after(page)
    press(page, "How strong", "ArrowRight")
    changed(page, old)
    assert requests(client)["invert"] == before["invert"]


def test_the_camera_gives_a_picture(page):
    old = after(page)
    choose(page, "Camera")
    page.wait_for_function("() => document.querySelector('video')?.readyState >= 2")
    page.get_by_role("button", name="Take Photo").click()
    changed(page, old)
    expect(page.locator(".stAlert")).to_have_count(0)


def test_texts_and_files_that_cannot_be_used_are_refused_in_words(page, tmp_path):
    old = after(page)
    fake, huge, recipe = (tmp_path / name for name in ("fake.png", "huge.png", "fake.json"))
    fake.write_bytes(b"not a picture")
    huge.write_bytes(bytes(33 * 2**20))
    recipe.write_text("[]")
    choose(page, "Upload")
    upload(page, SAMPLE)
    drawn = changed(page, old)
    page.get_by_text("Find the face first", exact=True).click()  # dlib finds none in a drawing
    told(page, "with “Find the face first” switched off")
    expect(page.get_by_text("What the encoder understood")).to_have_count(0)
    page.get_by_text("Find the face first", exact=True).click()
    expect(page.get_by_text("What the encoder understood")).to_be_visible(timeout=WAIT)
    settle(page)
    assert after(page) == drawn
    upload(page, fake)
    told(page, "Choose a JPEG, PNG or WebP picture")
    upload(page, huge)
    told(page, "must be 32.0MB or smaller")
    page.get_by_text("Load a recipe").click()
    upload(page, recipe, "recipe")
    told(page, "Choose a recipe that this page")
    field = page.get_by_role("textbox", name="The picture shows").first
    field.fill("a face with Sunglasses")
    field.press("Enter")
    told(page, "Let the two texts differ")
    expect(page.get_by_text("Traceback")).to_have_count(0)
    assert after(page) == drawn


def test_the_texts_of_a_strangers_recipe_fetch_nothing(page, tmp_path):
    picture = "![a face](http://203.0.113.1/face.png)"  # `page` fails when another host is asked
    edit = {"neutral": "a face", "target": picture, "strength": 5.0, "threshold": 0.05}
    recipe = {"kind": "styleclip-recipe", "version": 1, "domain": picture, "model_version": picture}
    stranger = tmp_path / "recipe.json"
    stranger.write_text(json.dumps(recipe | {"edits": [edit]}))
    old = after(page)
    page.get_by_text("Load a recipe").click()
    upload(page, stranger, "recipe")
    changed(page, old)
    told(page, "This recipe was made with “![a face](http")
    page.get_by_role("button", name="Back to").first.hover()
    told(page, "Go back to: ![a face](http")
    for view in ("Strengths", "Layers"):
        choose(page, view)
        settle(page)


def test_nothing_of_a_session_is_on_disk_even_for_a_moment(page, running_page, tmp_path):
    large = tmp_path / "large.png"
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8)
    Image.fromarray(noise).save(large)
    assert large.stat().st_size > 2**20
    old, touched = after(page), running_page.home.stat().st_mtime_ns
    choose(page, "Upload")
    upload(page, large)
    changed(page, old)
    downloaded(page, "Picture")
    assert list(running_page.home.rglob("*")) == []
    assert running_page.home.stat().st_mtime_ns == touched  # nothing came and went either


def test_the_page_waits_for_a_server_and_survives_its_restart(browser, tmp_path):
    from styleclip_server.serving.supervisor import default_repository, running_server
    from styleclip_server.serving.triton_process import Options

    ports = {f"{kind}_port": free_port() for kind in ("http", "grpc", "metrics")}
    options = Options(default_repository(), log=tmp_path / "server.log")
    options = replace(options, **ports)
    address = f"127.0.0.1:{ports['grpc_port']}"
    with browser.running_page(address, tmp_path / "page.log") as url:
        context = browser.new_context()
        page = context.new_page()
        page.goto(url)
        told(page, "No server answers")
        with running_server(options):
            expect(page.locator("img.after")).to_be_visible(timeout=WAIT)
            settle(page)
            old = after(page)
            press(page, "How strong", "ArrowLeft", 20)
            chosen = changed(page, old)
        told(page, "No server answers")
        told(page, "Your picture and edits are kept")
        assert after(page) == chosen
        press(page, "How strong", "ArrowLeft", 3)  # on to where no answer is kept
        told(page, "tries again by itself")
        with running_server(options):
            told(page, "Server ready")
            expect(page.get_by_text("tries again by itself")).to_have_count(0, timeout=WAIT)
            assert changed(page, chosen) not in (old, chosen)
        context.close()
