"""What a user does with the page: a real browser (Debian's Chromium) and a real server."""

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from paths import AVATAR, SAMPLES

pytest.importorskip("streamlit", reason="the page's packages are missing: make ui")
pytest.importorskip("playwright.sync_api", reason="playwright is missing: make test")
import numpy as np
from PIL import Image, ImageOps
from playwright.sync_api import expect

import gateways
from drags import press_until_image_follows, record_live_images
from image_files import decode_pixels
from page_state import (
    choose_option,
    choose_preset,
    digest_of,
    download,
    edited_digest,
    edited_pixels,
    expect_text,
    mean_difference,
    upload_file,
    wait_for_change,
    wait_for_digest,
)
from styleclip_client import Client, Recipe
from styleclip_server.serving.ports import find_free_port
from tools.browser import WAIT, press_slider_key, running_page, wait_until_idle

FIRST = AVATAR  # what the page opens with
SAMPLE = SAMPLES / "avatar-3.png"
PHOTO = SAMPLES / "photo-1.jpg"


@pytest.fixture(scope="module")
def client(server):
    with Client(server.grpc_url) as client:
        yield client


@pytest.fixture(scope="module")
def two_faces(tmp_path_factory):
    """A photo with one face on the left and its mirror image on the right."""
    face = Image.open(PHOTO)
    photo = Image.new("RGB", (2 * face.width, face.height))
    photo.paste(face, (0, 0))
    photo.paste(ImageOps.mirror(face), (face.width, 0))
    path = tmp_path_factory.mktemp("photo") / "two.jpg"
    photo.save(path, quality=92)
    return path


def count_requests(client):
    return {timing.name: timing.requests for timing in client.timings()}


@contextmanager
def paused(server):
    """In the block, the server answers no request."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def test_the_page_opens_with_an_edited_sample_and_a_ready_server(page):
    expect_text(page, "Server ready: cartoon avatars, 256 x 256, model version 1")
    expect_text(page, re.compile("of 3712 channels are moved"))
    expect(page.locator(".stException, .stAlert")).to_have_count(0)
    expect_text(page, "Reconstruction")
    expect(page.get_by_text("Keep details")).to_have_count(0)  # only of domains with features


def test_an_upload_is_edited_downloaded_and_edited_again_from_its_recipe(page, client, tmp_path):
    old = edited_digest(page)
    choose_option(page, "Upload")
    upload_file(page, SAMPLE)
    uploaded = wait_for_change(page, old)
    press_slider_key(page, "How strong", "ArrowRight", 5)
    stronger = wait_for_change(page, uploaded)
    page.get_by_role("button", name="Add another edit").click()
    wait_until_idle(page)
    choose_preset(page, "Smile")
    stacked = wait_for_change(page, stronger)

    file = download(page, "Image")
    assert file.suggested_filename == "styleclip.jpg"
    image = Image.open(file.path())
    assert (image.format, image.size) == ("JPEG", (256, 256))
    saved = tmp_path / "recipe.json"
    saved.write_bytes(Path(download(page, "Recipe").path()).read_bytes())
    recipe = Recipe.from_json(saved.read_bytes())
    assert (recipe.domain, recipe.model_version) == ("avatars", "1")
    assert [edit.target for edit in recipe.edits] == ["a face with sunglasses", "a smiling face"]
    assert recipe.edits[0].strength == pytest.approx(5.5)
    command = [Path(sys.executable).with_name("styleclip"), "edit", SAMPLE, "--recipe", saved]
    subprocess.run([*command, "-o", tmp_path / "again.png", "--server", client.url], check=True)
    again = decode_pixels((tmp_path / "again.png").read_bytes())
    assert mean_difference(again, edited_pixels(page)) < 2  # a PNG, and the page's JPEG

    page.get_by_text("Edit 2", exact=True).click()  # its toggle: off
    assert wait_for_change(page, stacked) == stronger
    page.get_by_role("button", name="Remove").first.click()
    wait_until_idle(page)
    page.get_by_text("Load a recipe").click()
    upload_file(page, saved, "recipe")
    wait_for_digest(page, stacked)


def test_a_slider_for_each_direction_edits_and_goes_into_the_recipe(page, client, tmp_path):
    old = edited_digest(page)
    press_slider_key(page, "Beard", "ArrowRight", 30)
    bearded = wait_for_change(page, old)
    saved = tmp_path / "recipe.json"
    saved.write_bytes(Path(download(page, "Recipe").path()).read_bytes())
    edits = Recipe.from_json(saved.read_bytes()).edits
    assert [edit.label for edit in edits] == ["a face with sunglasses", "beard"]
    assert edits[1].strength == pytest.approx(3)
    assert bearded == digest_of(client.edit(client.invert(FIRST).w_plus, edits).picture)
    slider = page.get_by_role("slider", name="Beard").first
    while float(slider.get_attribute("aria-valuetext")) > 0.05:  # a rerun may undo a press
        press_slider_key(page, "Beard", "ArrowLeft")
        page.wait_for_timeout(100)
    wait_for_digest(page, old)
    page.get_by_text("Load a recipe").click()
    upload_file(page, saved, "recipe")
    wait_for_digest(page, bearded)


def test_moving_a_slider_requests_only_edits_and_the_last_move_wins(page, client):
    before, old = count_requests(client), edited_digest(page)
    divider = page.get_by_role("slider", name="Divider")
    divider.focus()
    page.keyboard.press("Home")
    page.keyboard.press("ArrowRight")
    press_slider_key(page, "How strong", "ArrowLeft", 12)  # faster than the server responds
    sunglasses = replace(client.domain().preset("Sunglasses"), strength=3.8)
    expected = digest_of(client.edit(client.invert(FIRST).w_plus, sunglasses).picture)
    wait_for_digest(page, expected)
    assert expected != old
    now = count_requests(client)
    assert now["edit"] > before["edit"] + 1
    assert now["invert"] == before["invert"] + 1  # by the line above
    assert page.locator(".images").evaluate("e => e.style.getPropertyValue('--at')") == "1%"


def test_the_image_downloads_in_each_format_and_the_sweep_as_a_gif(page, server):
    for kind, extension in (("PNG", "png"), ("WEBP", "webp")):
        choose_option(page, kind)
        wait_until_idle(page)
        file = download(page, "Image")
        assert file.suggested_filename == f"styleclip.{extension}"
        assert Image.open(file.path()).format == kind
    with paused(server):  # so that there is time to cancel
        page.get_by_role("button", name="Make a GIF").click()
        page.get_by_role("button", name="Cancel").click()
    wait_until_idle(page)
    page.get_by_role("button", name="Make a GIF").click()
    expect(page.get_by_role("button", name="GIF", exact=True)).to_be_visible()
    image = Image.open(download(page, "GIF").path())
    assert (image.format, image.size) == ("GIF", (256, 256))
    assert b"edited with StyleCLIP (AI)" in image.info["comment"]
    assert image.n_frames > 10


def test_strengths_grid_and_layers_are_displayed(page, server):
    choose_option(page, "Strengths")
    expect(page.locator(".sweep img")).to_have_count(7)
    wait_until_idle(page)
    with paused(server):
        choose_option(page, "grid")
        page.get_by_role("button", name="Cancel").click()
    expect(page.locator("img.after")).to_be_visible()
    wait_until_idle(page)
    choose_option(page, "grid")
    expect(page.locator(".grid td img")).to_have_count(16)
    wait_until_idle(page)
    choose_option(page, "Layers")
    expect_text(page, "most of them in the layer")
    expect(page.locator(".layers tr")).to_have_count(13)


def test_the_history_restores_edits_and_their_photo(page):
    old = edited_digest(page)
    choose_preset(page, "Beard")
    bearded = wait_for_change(page, old)
    page.get_by_role("button", name="2", exact=True).click()  # the second sample
    other = wait_for_change(page, bearded)
    back = page.get_by_role("button", name="Back")
    expect(back).to_have_count(3)
    back.last.click()
    assert wait_for_change(page, other) == old


def test_a_click_chooses_one_of_several_faces_which_is_pasted_back(page, client, two_faces):
    old = edited_digest(page)
    choose_option(page, "Upload")
    upload_file(page, two_faces)
    complete = wait_for_change(page, old)
    page.get_by_text("Find the face first", exact=True).click()
    largest = wait_for_change(page, complete)
    faces = page.get_by_role("button", name=re.compile(r"^Face \d of"))
    expect(faces.nth(1)).to_be_visible()
    pressed = [faces.nth(n).get_attribute("aria-pressed") for n in range(2)]
    assert sorted(pressed) == ["false", "true"]
    other = pressed.index("false")
    faces.nth(other).click()
    wait_for_change(page, largest)
    expect(faces.nth(other)).to_have_attribute("aria-pressed", "true")

    right = faces.nth(other).bounding_box()["x"] > faces.nth(1 - other).bounding_box()["x"]
    crop = edited_digest(page)
    page.get_by_text("Paste back into the photo").click()
    wait_for_change(page, crop)
    edited, photo = edited_pixels(page), decode_pixels(two_faces.read_bytes())
    halves = [mean_difference(*(image[:, half] for image in (edited, photo)))
              for half in (slice(0, 512), slice(512, 1024))]  # fmt: skip
    assert halves[right] > 3 > halves[not right]
    assert Image.open(download(page, "Image").path()).size == (1024, 512)
    before, old = count_requests(client), edited_digest(page)
    press_slider_key(page, "How strong", "ArrowRight")
    wait_for_change(page, old)
    assert count_requests(client)["invert"] == before["invert"]


def test_a_reload_keeps_the_edits_and_the_sample(page):
    old, entries = edited_digest(page), page.evaluate("history.length")
    choose_preset(page, "Beard")
    bearded = wait_for_change(page, old)
    page.get_by_role("button", name="2", exact=True).click()  # the second sample
    other = wait_for_change(page, bearded)
    press_slider_key(page, "How strong", "ArrowLeft", 3)
    weaker = wait_for_change(page, other)
    assert page.evaluate("history.length") == entries
    page.reload()
    wait_for_digest(page, weaker)
    expect_text(page, "Your edits were kept in the page's address")


def test_a_reload_keeps_the_edits_of_an_own_photo_and_asks_for_it(page):
    old = edited_digest(page)
    choose_option(page, "Upload")
    upload_file(page, SAMPLE)
    uploaded = wait_for_change(page, old)
    choose_preset(page, "Beard")
    bearded = wait_for_change(page, uploaded)
    page.reload()
    expect_text(page, "Your photo is nowhere stored: choose it again")
    choose_option(page, "Upload")
    upload_file(page, SAMPLE)
    wait_for_digest(page, bearded)


@pytest.mark.parametrize("recipe", ["!", "e30", "eyJraW5kIjog", "A" * 9000])
def test_an_address_without_a_valid_recipe_is_reported_and_ignored(visit, running_page, recipe):
    page = visit()
    page.goto(f"{running_page.url}/?photo=nobody&recipe={recipe}")
    expect_text(page, "The edits in the page's address cannot be used")
    expect(page.locator("img.after")).to_be_visible()
    expect(page.get_by_text("Traceback")).to_have_count(0)


def test_the_camera_takes_a_photo(page):
    old = edited_digest(page)
    choose_option(page, "Camera")
    page.wait_for_function("() => document.querySelector('video')?.readyState >= 2")
    page.get_by_role("button", name="Take Photo").click()
    wait_for_change(page, old)
    expect(page.locator(".stAlert")).to_have_count(0)


def test_invalid_texts_and_files_are_refused_with_a_remedy(page, tmp_path):
    old = edited_digest(page)
    fake, huge, recipe = (tmp_path / name for name in ("fake.png", "huge.png", "fake.json"))
    fake.write_bytes(b"not an image")
    huge.write_bytes(bytes(33 * 2**20))
    recipe.write_text("[]")
    choose_option(page, "Upload")
    upload_file(page, SAMPLE)
    drawn = wait_for_change(page, old)
    page.get_by_text("Find the face first", exact=True).click()  # dlib finds none in a drawing
    expect_text(page, "with “Find the face first” switched off")
    expect(page.get_by_role("heading", name="Inversion")).to_have_count(0)
    page.get_by_text("Find the face first", exact=True).click()
    expect(page.get_by_role("heading", name="Inversion")).to_be_visible()
    wait_until_idle(page)
    assert edited_digest(page) == drawn
    upload_file(page, fake)
    expect_text(page, "Choose a JPEG, PNG or WebP image")
    upload_file(page, huge)
    expect_text(page, "must be 32.0MB or smaller")
    page.get_by_text("Load a recipe").click()
    upload_file(page, recipe, "recipe")
    expect_text(page, "Choose a recipe that this page")
    field = page.get_by_role("textbox", name="The photo shows").first
    field.fill("a face with Sunglasses")
    field.press("Enter")
    expect_text(page, "Let the two texts differ")
    expect(page.get_by_text("Traceback")).to_have_count(0)
    assert edited_digest(page) == drawn


def test_the_texts_of_an_untrusted_recipe_fetch_nothing(page, tmp_path):
    markdown = "![a face](http://203.0.113.1/face.png)"  # `page` fails on a request to another host
    edit = {"neutral": "a face", "target": markdown, "strength": 5.0, "threshold": 0.05}
    recipe = {"kind": "styleclip-recipe", "version": 1, "domain": markdown}
    recipe["model_version"] = markdown
    file = tmp_path / "recipe.json"
    file.write_text(json.dumps(recipe | {"edits": [edit]}))
    old = edited_digest(page)
    page.get_by_text("Load a recipe").click()
    upload_file(page, file, "recipe")
    wait_for_change(page, old)
    expect_text(page, "This recipe was created with “![a face](http")
    page.get_by_role("button", name="Back to").first.hover()
    expect_text(page, "Go back to: ![a face](http")
    for view in ("Strengths", "Layers"):
        choose_option(page, view)
        wait_until_idle(page)


def test_nothing_of_a_session_is_ever_written_to_disk(page, running_page, tmp_path):
    large = tmp_path / "large.png"
    noise = np.random.default_rng(0).integers(0, 256, (800, 800, 3), np.uint8)
    Image.fromarray(noise).save(large)
    assert large.stat().st_size > 2**20
    old, touched = edited_digest(page), running_page.home.stat().st_mtime_ns
    choose_option(page, "Upload")
    upload_file(page, large)
    wait_for_change(page, old)
    download(page, "Image")
    assert list(running_page.home.rglob("*")) == []
    assert running_page.home.stat().st_mtime_ns == touched  # no file was created and removed either


def test_the_page_waits_for_a_server_and_survives_its_restart(browser, server, tmp_path):
    port = find_free_port()  # of a server that is there only while it is forwarded to a real one
    with running_page(f"127.0.0.1:{port}", tmp_path / "page.log") as url:
        context = browser.new_context()
        page = context.new_page()
        page.set_default_timeout(WAIT)
        page.goto(url)
        expect_text(page, "No server answers")
        with gateways.forwarder(server.grpc_url, port=port):
            expect(page.locator("img.after")).to_be_visible()
            wait_until_idle(page)
            old = edited_digest(page)
            press_slider_key(page, "How strong", "ArrowLeft", 20)
            chosen = wait_for_change(page, old)
        expect_text(page, "No server answers")
        expect_text(page, "Your photo and edits are kept")
        assert edited_digest(page) == chosen
        press_slider_key(page, "How strong", "ArrowLeft", 3)  # on to strengths that are not cached
        expect_text(page, "tries again by itself")
        with gateways.forwarder(server.grpc_url, port=port):
            expect_text(page, "Server ready")
            expect(page.get_by_text("tries again by itself")).to_have_count(0)
            assert wait_for_change(page, chosen) not in (old, chosen)
            press_until_image_follows(page, record_live_images(page))
        context.close()
