"""The command's several faces, sweeps, measurements, JSON and completion, on the real server."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paths import AVATAR, GOLDEN
from styleclip_client import Client, Inverted, Recipe, faces
from styleclip_client.commands.options import BAD_INPUT, DONE, WRONG_USAGE
from styleclip_client.recipe import Step

SAD = ["--target", "a sad face"]


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
        "edit", couple, *SAD, "--align", "--face", "all", "-o", out, "--json"
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


def test_a_face_that_is_already_cut_out_is_the_only_one(server):
    with Client(server.grpc_url) as client:
        edit = client.domain().edit("a sad face")
        assert len(faces.edit_each(client, AVATAR, edit)) == 1


def test_a_recipe_describes_the_edits(server, styleclip, tmp_path):
    with Client(server.grpc_url) as client:
        domain = client.domain()
        edits = [domain.edit("a sad face", strength=3), domain.edit("a face with a beard")]
        expected = client.edit_photo(AVATAR, edits[0], format="PNG")
    recipe = tmp_path / "recipe.json"
    steps = (Step(edits[0]), Step(edits[1], on=False))
    recipe.write_text(Recipe(domain.name, "1", steps).to_json())
    out = tmp_path / "out.png"
    assert styleclip("edit", AVATAR, "--recipe", recipe, "-o", out)[0] == DONE
    assert out.read_bytes() == expected.picture
    code, _, stderr = styleclip("edit", AVATAR, "--recipe", recipe, *SAD, "-o", out)
    assert code == WRONG_USAGE and "stands alone" in stderr
    recipe.write_text("{")
    code, _, stderr = styleclip("edit", AVATAR, "--recipe", recipe, "-o", tmp_path / "other.png")
    assert code == BAD_INPUT and "InvalidRecipe" in stderr


def test_edit_and_invert_are_json_for_programs(styleclip, tmp_path):
    out, latent = tmp_path / "out.png", tmp_path / "w.npz"
    code, stdout, _ = styleclip("edit", AVATAR, *SAD, "-o", out, "--json")
    (file,) = json.loads(stdout)["files"]
    assert code == DONE and file["out"] == str(out)
    assert (file["width"], file["height"], file["format"]) == (256, 256, "PNG")
    assert file["channels"][0] > 0
    code, stdout, _ = styleclip("invert", AVATAR, "-o", latent, "--json")
    content = json.loads(stdout)
    assert code == DONE and content["latents"] == 14 and np.shape(content["quad"]) == (4, 2)
    assert Inverted.load(latent).w_plus.shape == (14, 512)


def test_a_sweep_is_a_strip_of_images(styleclip, tmp_path):
    out = tmp_path / "strip.png"
    code, stdout, _ = styleclip(
        "sweep",
        AVATAR,
        *SAD,
        "--from",
        0,
        "--to",
        5,
        "--steps",
        3,
        "--size",
        64,
        "-o",
        out,
        "--json",
    )
    assert code == DONE and json.loads(stdout)["strengths"] == [0, 2.5, 5]
    strip = Image.open(out)
    assert strip.width > 3 * 64 and 64 < strip.height < 128
    assert "trainedAlgorithmicMedia" in strip.info["XML:com.adobe.xmp"]  # made by AI, as its parts


def test_a_sweep_over_thresholds_is_a_grid(styleclip, tmp_path):
    out = tmp_path / "grid.jpg"
    code, stdout, _ = styleclip(
        "sweep",
        AVATAR,
        *SAD,
        "--steps",
        2,
        "--thresholds",
        "0.1,1",
        "--size",
        64,
        "-o",
        out,
        "--json",
    )
    content = json.loads(stdout)
    assert code == DONE and content["thresholds"] == [0.1, 1]
    assert {threshold for _, threshold in content["nothing_left"]} == {1}
    grid = Image.open(out)
    assert grid.height > 2 * 64 and b"trainedAlgorithmicMedia" in grid.info["xmp"]


def test_a_sweep_moves_as_a_gif(styleclip, tmp_path):
    latent, out = tmp_path / "w.npz", tmp_path / "sweep.gif"
    styleclip("invert", AVATAR, "-o", latent)
    code, _, _ = styleclip("sweep", latent, *SAD, "--steps", 3, "--size", 64, "-o", out)
    gif = Image.open(out)
    assert code == DONE and gif.n_frames == 4 and gif.size == (64, 64)
    assert b"AI" in gif.info["comment"]


@pytest.mark.parametrize(
    "options, word",
    [
        (["-o", "out.tiff"], ".webp, .gif"),
        (["-o", "out.gif", "--thresholds", "0.1,0.2"], "no rows"),
        (["-o", "out.png", "--thresholds", "a,b"], "no list"),
        (["-o", "out.png", "--steps", "1"], "--steps"),
        (["-o", "out.png", "--from", "50"], "--from"),
    ],
)
def test_an_impossible_sweep_is_wrong_usage(styleclip, options, word):
    code, _, stderr = styleclip("sweep", AVATAR, *SAD, *options)
    assert code == WRONG_USAGE and word in stderr


def test_bench_measures_each_call(styleclip):
    options = ["--seconds", 0.5, "--concurrency", 1, "--concurrency", 2]
    code, stdout, _ = styleclip("bench", AVATAR, *options, "--json")
    measured = json.loads(stdout)["measured"]
    assert code == DONE
    assert [(m["call"], m["concurrency"]) for m in measured] == [
        (call, count) for call in ("invert", "edit", "edit_photo") for count in (1, 2)
    ]
    for each in measured:
        assert each["answered"] > 0 and each["failed"] == 0 and each["per_second"] > 0
        assert 0 < each["p50"] <= each["p95"] <= each["p99"] <= each["longest"]
    code, stdout, _ = styleclip("bench", AVATAR, "--call", "edit", "--seconds", 0.2)
    assert code == DONE and "edit" in stdout and "p95" in stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts_are_printed(styleclip, shell):
    code, stdout, _ = styleclip("completion", shell)
    assert code == DONE and "_STYLECLIP_COMPLETE" in stdout


def test_bash_completes_commands_options_and_presets(server):
    script = f"""
        PATH={Path(sys.executable).parent}:$PATH
        eval "$(styleclip completion bash)"
        complete_line() {{
            COMPREPLY=() COMP_WORDS=(styleclip "$@") COMP_CWORD=$#
            _styleclip_completion styleclip
            printf '%s\\n' "${{COMPREPLY[@]}}"
        }}
        complete_line swe
        complete_line edit --over
        complete_line edit --server {server.grpc_url} --preset sung
        complete_line edit --server localhost:1 --preset sung
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert done.stdout.split() == ["sweep", "--overwrite", "Sunglasses"]
