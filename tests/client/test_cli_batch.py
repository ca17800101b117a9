"""Batches of a folder: each photo is edited once, whatever happens during it."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

import gateways
from batch_outputs import list_images, modification_times
from edit_texts import SAD_OPTIONS
from paths import SAMPLES
from polling import SECONDS, wait_until
from styleclip_client.commands.options import (
    BAD_INPUT,
    DONE,
    SERVER_FAILED,
    SOME_FAILED,
    WRONG_USAGE,
)

PHOTOS = sorted(SAMPLES.glob("*.png"))
COMMAND = Path(sys.executable).with_name("styleclip")


@pytest.fixture
def photos(tmp_path):
    """Four photos, in a folder with another in it."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    shutil.copy(PHOTOS[0], folder / "one.png")
    Image.open(PHOTOS[1]).convert("RGB").save(folder / "two.JPG", "JPEG")
    Image.open(PHOTOS[2]).convert("RGB").save(folder / "three.bmp")
    shutil.copy(PHOTOS[3], folder / "more" / "four.png")
    (folder / "notes.txt").write_text("no photo")
    return folder


def test_each_photo_becomes_an_image_of_the_same_name(styleclip, photos, tmp_path):
    out = tmp_path / "out"
    code, stdout, stderr = styleclip("batch", photos, *SAD_OPTIONS, "-o", out)
    assert (code, stderr) == (DONE, "")
    assert stdout.startswith(f"{out}: 4 edited (") and stdout.count("\n") == 1
    assert list_images(out) == ["more/four.png", "one.png", "three.bmp.jpg", "two.JPG"]
    formats = [Image.open(out / name).format for name in list_images(out)]
    assert formats == ["PNG", "PNG", "JPEG", "JPEG"]


def test_edit_also_takes_a_folder(styleclip, photos, tmp_path):
    out = tmp_path / "out"
    code, stdout, _ = styleclip("edit", photos, *SAD_OPTIONS, "-o", out, "--json")
    assert code == DONE
    content = json.loads(stdout)
    assert len(content["edited"]) == 4 and content["failed"] == [] and content["left"] == 0
    assert {entry["picture"] for entry in content["edited"]} == set(list_images(out))


def test_a_repeated_command_edits_only_missing_images(styleclip, photos, tmp_path):
    out = tmp_path / "out"
    command = ("batch", photos, *SAD_OPTIONS, "--format", "webp", "-o", out)
    styleclip(*command)
    assert list_images(out) == [
        "more/four.png.webp",
        "one.png.webp",
        "three.bmp.webp",
        "two.JPG.webp",
    ]
    before = modification_times(out)
    (out / "one.png.webp").unlink()
    shutil.copy(PHOTOS[4], photos / "five.png")
    code, stdout, _ = styleclip(*command)
    assert code == DONE and "2 edited, 3 done before" in stdout
    after = modification_times(out)
    assert len(after) == 5
    assert all(after[name] == before[name] for name in before if name != "one.png.webp")
    assert "0 edited, 5 done before" in styleclip(*command)[1]


def test_bad_photos_affect_no_others_and_their_errors_are_printed(styleclip, photos, tmp_path):
    out = tmp_path / "out"
    (photos / "bad.jpg").write_bytes(b"no image")
    (photos / "cut.png").write_bytes(PHOTOS[0].read_bytes()[:2000])
    (photos / "empty.webp").touch()
    code, stdout, _ = styleclip("batch", photos, *SAD_OPTIONS, "-o", out)
    assert code == SOME_FAILED
    assert "4 edited, 3 failed" in stdout
    for reason in ("NotAnImage: ", "ImageTruncated: "):
        assert f"\n  {reason}" in stdout
    assert "bad.jpg" in stdout and len(list_images(out)) == 4
    code, stdout, _ = styleclip("batch", photos, *SAD_OPTIONS, "-o", out, "--json")
    content = json.loads(stdout)
    assert code == SOME_FAILED and len(content["done_before"]) == 4
    assert {f["photo"]: f["error"] for f in content["failed"]} == {
        "bad.jpg": "NotAnImage", "cut.png": "ImageTruncated", "empty.webp": "NotAnImage",
    }  # fmt: skip


def test_existing_files_are_kept_without_overwrite(styleclip, photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "one.png").write_text("mine")
    code, stdout, _ = styleclip("batch", photos, *SAD_OPTIONS, "-o", out)
    assert code == SOME_FAILED and "3 edited, 1 failed" in stdout and "--overwrite" in stdout
    assert (out / "one.png").read_text() == "mine"
    code, stdout, _ = styleclip("batch", photos, *SAD_OPTIONS, "-o", out, "--overwrite")
    assert code == DONE and "4 edited" in stdout
    assert Image.open(out / "one.png").format == "PNG"


def test_images_of_other_edits_are_not_mixed(styleclip, photos, tmp_path):
    out = tmp_path / "out"
    styleclip("batch", photos, *SAD_OPTIONS, "-o", out)
    before = modification_times(out)
    code, _, stderr = styleclip("batch", photos, *SAD_OPTIONS, "--quality", 50, "-o", out)
    assert code == BAD_INPUT and "BatchMismatch" in stderr and "other quality" in stderr
    assert modification_times(out) == before
    (out / "styleclip-batch.json").write_text("[")
    code, _, stderr = styleclip("batch", photos, *SAD_OPTIONS, "-o", out)
    assert code == BAD_INPUT and "damaged" in stderr


def test_output_images_in_the_photo_folder_are_not_edited(styleclip, photos):
    for _ in range(2):
        code, stdout, _ = styleclip("batch", photos, *SAD_OPTIONS, "-o", photos / "out", "--json")
        content = json.loads(stdout)
        assert code == DONE and len(content["edited"]) + len(content["done_before"]) == 4
    assert len(list_images(photos / "out")) == 4


@pytest.fixture
def twelve_photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        shutil.copy(PHOTOS[number % len(PHOTOS)], folder / f"{number:02}.png")
    return folder


@contextmanager
def stalled_batch(server, command, out, **options):
    """Yield the process of a batch that has written a few images, and its stalled gateway."""
    with gateways.http_gateway(server.http_url, stall_after=5) as gateway:
        process = subprocess.Popen([COMMAND, *command, "--server", gateway.url], **options)
        try:
            wait_until(lambda: len(list_images(out)) >= 3)
            yield process, gateway
        finally:
            process.kill()
            process.wait()


def test_a_killed_batch_can_be_resumed(server, styleclip, twelve_photos, tmp_path):
    out = tmp_path / "out"
    command = ["batch", str(twelve_photos), *SAD_OPTIONS, "-o", str(out)]
    with stalled_batch(server, command, out):
        pass  # killed
    before = modification_times(out)
    assert 3 <= len(before) < 12
    (out / ".00.png.0123abcd.part").write_bytes(b"half an image")  # as a kill may leave it
    code, stdout, _ = styleclip(*command)
    assert code == DONE
    assert f"{12 - len(before)} edited, {len(before)} done before" in stdout
    after = modification_times(out)
    assert len(after) == 12 and all(after[name] == before[name] for name in before)
    assert not list(out.glob(".*.part"))
    for name in after:
        Image.open(out / name).load()


def test_an_interrupted_batch_prints_how_to_resume_it(server, styleclip, twelve_photos, tmp_path):
    out = tmp_path / "out"
    command = ["batch", str(twelve_photos), *SAD_OPTIONS, "-o", str(out)]
    options = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
        "text": True,
        # A shell's background job ignores Ctrl-C, and so would what it starts.
        "preexec_fn": lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    with stalled_batch(server, command, out, **options) as (process, gateway):
        process.send_signal(signal.SIGINT)
        gateway.resumed.set()  # the requests under way are finished
        stdout, stderr = process.communicate(timeout=SECONDS)
    assert process.returncode == 130
    assert "left: run the same command again to resume" in stdout
    assert stderr.strip() == "styleclip: interrupted"
    assert styleclip(*command)[0] == DONE and len(list_images(out)) == 12


def test_two_batches_cannot_share_a_folder(server, styleclip, photos, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with (out / ".styleclip-batch.json.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _, stderr = styleclip("batch", photos, *SAD_OPTIONS, "-o", out)
    assert code == BAD_INPUT and "another batch is running" in stderr
    assert list_images(out) == []


def test_photos_of_an_unreachable_server_go_to_another(server, twelve_photos, tmp_path):
    out = tmp_path / "out"
    arguments = ["batch", twelve_photos, *SAD_OPTIONS, "-o", out, "--retries", 0, "--json"]
    with gateways.forwarder(server.grpc_url) as port:
        other = f"localhost:{port}"
        process = subprocess.Popen(
            [COMMAND, *map(str, arguments),
             "--server", server.grpc_url, "--server", other],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        wait_until(lambda: len(list_images(out)) >= 2)
    stdout, _ = process.communicate(timeout=SECONDS)
    content = json.loads(stdout)
    assert process.returncode == DONE and content["failed"] == []
    assert sorted(entry["photo"] for entry in content["edited"]) == [
        f"{n:02}.png" for n in range(12)
    ]
    assert len(list_images(out)) == 12
    assert {entry["server"] for entry in content["edited"]} >= {server.grpc_url}


def test_a_server_that_does_not_answer_is_skipped(server, styleclip, photos, tmp_path):
    with gateways.forwarder(server.grpc_url) as port:
        pass  # nothing listens on the port
    out = tmp_path / "out"
    both = ["--server", f"localhost:{port}", "--server", server.grpc_url, "--retries", 0]
    code, stdout, stderr = styleclip("batch", photos, *SAD_OPTIONS, "-o", out, *both)
    assert code == DONE and "4 edited" in stdout
    assert f"goes on without localhost:{port}" in stderr
    code, _, stderr = styleclip("batch", photos, *SAD_OPTIONS, "-o", out, *both[:2], "--retries", 0)
    assert code == SERVER_FAILED and stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, word",
    [
        (["none", "-o", "out"], "no folder"),
        (["photos", "-o", "photos"], "folder of the photos"),
        (["photos", "-o", "photos/one.png"], "not a folder"),
        (["photos", "-o", "out", "--face", "all"], "--paste"),
        (["photos", "-o", "out", "--face", "-2"], "not a face"),
        (["photos", "-o", "ftp2://there/out"], "cannot be opened"),
    ],
)
def test_invalid_folders_are_refused_before_any_request(
    styleclip, photos, tmp_path, monkeypatch, arguments, word
):
    monkeypatch.chdir(tmp_path)
    before = sorted(os.walk(tmp_path))
    code, _, stderr = styleclip("batch", *arguments, *SAD_OPTIONS)
    assert code == WRONG_USAGE and word in stderr
    assert sorted(os.walk(tmp_path)) == before
