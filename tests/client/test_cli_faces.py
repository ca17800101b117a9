"""The command and the client edit each face of a photo with several, on the real server."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edit_texts import SAD_OPTIONS
from paths import AVATAR, GOLDEN
from styleclip_client import Client, faces
from styleclip_client.commands.options import DONE


@pytest.fixture(scope="module")
def couple(tmp_path_factory):
    """A photo with two faces: the astronaut, twice, the second smaller."""
    path = tmp_path_factory.mktemp("couple") / "couple.jpg"
    with Image.open(GOLDEN / "align" / "astronaut.png") as astronaut:
        astronaut = astronaut.convert("RGB")
        photo = Image.new("RGB", (astronaut.width * 2, astronaut.height), "white")
        photo.paste(astronaut, (0, 0))
        photo.paste(astronaut.resize((400, 400)), (astronaut.width + 50, 60))
    photo.save(path, quality=95)
    return path


def test_each_face_becomes_a_file(styleclip, couple, tmp_path):
    out = tmp_path / "edited.png"
    code, stdout, _ = styleclip(
        "edit", couple, *SAD_OPTIONS, "--align", "--face", "all", "-o", out, "--json"
    )
    assert code == DONE
    files = [Path(file["out"]) for file in json.loads(stdout)["files"]]
    assert files[:2] == [tmp_path / "edited-0.png", tmp_path / "edited-1.png"]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    first, second = (np.asarray(Image.open(file)) for file in files[:2])
    assert first.shape == (256, 256, 3) and not np.array_equal(first, second)


def test_all_faces_are_pasted_into_one_image(server, couple):
    before = np.asarray(Image.open(couple), np.int16)
    with Client(server.grpc_url) as client:
        edit = client.domain().edit("a face with sunglasses")
        quads = [client.invert(couple, align=True, face=face).quad for face in (0, 1)]
        edited = faces.edit_together(client, couple, edit, align=True, format="PNG")
        single = client.edit_photo(couple, edit, align=True, face=0, paste=True, format="PNG")
    changed = np.abs(edited.array() - before).max(axis=-1) > 8
    one = np.abs(single.array() - before).max(axis=-1) > 8
    for index, quad in enumerate(quads):
        left, top = quad.min(axis=0).astype(int).clip(0)
        right, bottom = quad.max(axis=0).astype(int)
        assert changed[top:bottom, left:right].mean() > 0.05
        assert bool(one[top:bottom, left:right].mean() > 0.05) is (index == 0)
    assert edited.array().shape == before.shape


def test_an_aligned_face_is_the_only_face(server):
    with Client(server.grpc_url) as client:
        edit = client.domain().edit("a sad face")
        assert len(faces.edit_each(client, AVATAR, edit)) == 1


@pytest.mark.parametrize("paste", [True, False])
def test_all_faces_are_all_clear_ones_and_others_are_edited_by_number(styleclip, tmp_path, paste):
    astronaut = GOLDEN / "align" / "astronaut.png"
    detected = json.loads(styleclip("faces", astronaut, "--json")[1])["faces"]
    unclear = [face["face"] for face in detected if face["score"] < 0.3]
    assert unclear == [1]
    options = [*SAD_OPTIONS, "--align", *["--paste"] * paste, "--json"]
    code, stdout, stderr = styleclip(
        "edit", astronaut, *options, "--face", "all", "-o", tmp_path / "all.png"
    )
    assert code == DONE and len(json.loads(stdout)["files"]) == 1
    assert "face 1 has a score of 0.1" in stderr and "--face 1 edits it" in stderr
    styleclip("edit", astronaut, *options, "--face", "0", "-o", tmp_path / "first.png")
    name = "all.png" if paste else "all-0.png"
    edited, first = (np.asarray(Image.open(tmp_path / path)) for path in (name, "first.png"))
    assert np.array_equal(edited, first)
    code, _, _ = styleclip("edit", astronaut, *options, "--face", "1", "-o", tmp_path / "one.png")
    assert code == DONE


def test_a_batch_lists_the_faces_that_it_did_not_edit(styleclip, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    shutil.copy(GOLDEN / "align" / "astronaut.png", folder / "a.png")
    options = [*SAD_OPTIONS, "--align", "--paste", "--face", "all", "--json"]
    code, stdout, stderr = styleclip("batch", folder, *options, "-o", tmp_path / "out")
    assert code == DONE
    assert "styleclip: a.png: face 1 has a score of 0.1" in stderr
    assert "may be none: it is not edited; --face 1 edits it" in stderr
    (unclear,) = json.loads(stdout)["edited"][0]["unclear"]
    assert unclear["face"] == 1 and unclear["score"] < faces.CLEAR_SCORE
