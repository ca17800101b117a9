"""The command on the real server with the avatars domain."""

import json

import numpy as np
import pytest
from PIL import Image

from edit_texts import SUNGLASSES
from paths import AVATAR
from styleclip_client import Inverted
from styleclip_client.commands.options import BAD_INPUT, DONE


@pytest.mark.parametrize("suffix, format", [(".jpg", "JPEG"), (".png", "PNG"), (".webp", "WEBP")])
def test_edit_writes_the_image_in_the_format_of_its_name(styleclip, tmp_path, suffix, format):
    out = tmp_path / f"edited{suffix}"
    code, stdout, _ = styleclip("edit", AVATAR, "--target", SUNGLASSES, "-o", out)
    assert code == DONE
    assert str(out) in stdout and format in stdout and "channels" in stdout
    assert Image.open(out).format == format
    assert list(tmp_path.iterdir()) == [out]


def test_edit_takes_several_targets_each_with_its_strength(styleclip, tmp_path):
    texts = ["--target", SUNGLASSES, "--target", "a sad face", "--strength", 4, "--strength", 2]
    code, stdout, _ = styleclip("edit", AVATAR, *texts, "-o", tmp_path / "both.png")
    assert code == DONE
    assert " + " in stdout


def test_edit_takes_presets_of_the_domain(styleclip, tmp_path):
    _, stdout, _ = styleclip("status", "--json")
    title = json.loads(stdout)["domain"]["presets"][0]["title"]
    assert styleclip("edit", AVATAR, "--preset", title, "-o", tmp_path / "out.png")[0] == DONE


def test_an_inverted_latent_can_be_edited(styleclip, tmp_path):
    latent, out = tmp_path / "w.npz", tmp_path / "out.png"
    assert styleclip("invert", AVATAR, "-o", latent)[0] == DONE
    assert Inverted.load(latent).w_plus.shape[1] == 512
    assert styleclip("edit", latent, "--target", SUNGLASSES, "-o", out)[0] == DONE
    assert Image.open(out).format == "PNG"


def test_overwrite_replaces_a_file(styleclip, tmp_path):
    out = tmp_path / "out.png"
    out.write_bytes(b"old")
    code, _, _ = styleclip("edit", AVATAR, "--target", SUNGLASSES, "-o", out, "--overwrite")
    assert code == DONE
    assert Image.open(out).format == "PNG"


@pytest.mark.parametrize(
    "name, options",
    [
        ("EmptyText", ["--target", " "]),
        ("EmptyText", ["--target", "&nbsp;"]),
        ("TextTooLong", ["--target", "word " * 500]),
        ("TextTooLong", ["--target", "x1 " * 90]),
        ("InvalidStrength", ["--target", SUNGLASSES, "--strength", "nan"]),
        ("InvalidThreshold", ["--target", SUNGLASSES, "--threshold", "2"]),
        ("NoChannelLeft", ["--target", SUNGLASSES, "--threshold", "1"]),
        ("UnknownPreset", ["--preset", "no such preset"]),
    ],
)
def test_refused_texts_and_numbers_print_one_line_and_write_nothing(
    styleclip, tmp_path, name, options
):
    code, stdout, stderr = styleclip("edit", AVATAR, *options, "-o", tmp_path / "out.png")
    assert code == BAD_INPUT
    assert stdout == ""
    assert stderr.startswith(f"styleclip: {name}: ") and stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_latent_of_another_generator_is_refused_with_the_rows_that_are_needed(
    server, styleclip, tmp_path, protocol
):
    latent = tmp_path / "latent.npz"
    Inverted(np.zeros((18, 512), np.float32), np.zeros((4, 2), np.float32)).save(latent)
    url = server.grpc_url if protocol == "grpc" else f"http://{server.http_url}"
    out = tmp_path / "out.png"
    code, _, stderr = styleclip("edit", latent, "--target", SUNGLASSES, "-o", out, "--server", url)
    assert code == BAD_INPUT and not out.exists()
    assert stderr.startswith("styleclip: InvalidLatent: ") and stderr.count("\n") == 1
    assert "14" in stderr and "18" in stderr


@pytest.mark.parametrize("name, content", [("NotAnImage", b"no image"), ("NotAnImage", b"")])
def test_a_file_that_is_not_an_image_prints_one_line(styleclip, tmp_path, name, content):
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(content)
    code, _, stderr = styleclip("edit", photo, "--target", SUNGLASSES, "-o", tmp_path / "out.png")
    assert code == BAD_INPUT
    assert stderr.startswith(f"styleclip: {name}: ") and stderr.count("\n") == 1


def test_status_prints_models_and_defaults(styleclip):
    code, stdout, _ = styleclip("status")
    assert code == DONE
    assert "edit_photo" in stdout and "READY" in stdout and "avatars" in stdout


def test_status_prints_json(styleclip):
    code, stdout, _ = styleclip("status", "--json")
    assert code == DONE
    content = json.loads(stdout)
    assert content["ready"] is True
    assert content["domain"]["name"] == "avatars"
    assert {"name", "version", "state", "reason"} == set(content["models"][0])


def test_faces_lists_boxes_and_scores_under_the_numbers_of_faces(styleclip, golden, tmp_path):
    photo = golden / "align/astronaut.png"
    code, stdout, _ = styleclip("faces", photo)
    assert code == DONE and stdout.splitlines()[0] == "0: (175, 76) to (265, 166), score 1.16"
    content = json.loads(styleclip("faces", photo, "--json")[1])["faces"]
    assert [face["face"] for face in content] == [0, 1]
    texts = ["--target", "a sad face", "--align"]
    assert styleclip("edit", photo, *texts, "--face", 1, "-o", tmp_path / "1.png")[0] == DONE
    code, _, stderr = styleclip("edit", photo, *texts, "--face", 2, "-o", tmp_path / "2.png")
    assert code == BAD_INPUT and "found 2 face(s)" in stderr


@pytest.mark.parametrize("more", [[], ["--paste"], ["--paste", "--face", "all"]])
def test_no_mark_omits_the_edit_from_the_metadata(styleclip, tmp_path, more):
    for option, marked in (("--mark", True), ("--no-mark", False)):
        out = tmp_path / f"{option}.png"
        texts = ["--target", "a sad face", "-o", out]
        assert styleclip("edit", AVATAR, *texts, option, *more)[0] == DONE
        assert (b"a sad face" in out.read_bytes()) == marked
