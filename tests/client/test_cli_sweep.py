"""`styleclip sweep`: strips, grids and GIFs, on the real server."""

import json

import pytest
from PIL import Image

from edit_texts import SAD_OPTIONS
from paths import AVATAR
from styleclip_client.commands.options import BAD_INPUT, DONE, WRONG_USAGE
from styleclip_client.sweeps import Grid, evenly_spaced


def test_a_strength_sweep_is_a_strip_of_images(styleclip, tmp_path):
    out = tmp_path / "strip.png"
    code, stdout, _ = styleclip(
        "sweep",
        AVATAR,
        *SAD_OPTIONS,
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
    assert "trainedAlgorithmicMedia" in strip.info["XML:com.adobe.xmp"]  # like its parts


def test_a_threshold_sweep_is_a_grid(styleclip, tmp_path):
    out = tmp_path / "grid.jpg"
    code, stdout, _ = styleclip(
        "sweep",
        AVATAR,
        *SAD_OPTIONS,
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


def test_a_sweep_can_be_an_animated_gif(styleclip, tmp_path):
    latent, out = tmp_path / "w.npz", tmp_path / "sweep.gif"
    styleclip("invert", AVATAR, "-o", latent)
    code, _, _ = styleclip("sweep", latent, *SAD_OPTIONS, "--steps", 3, "--size", 64, "-o", out)
    gif = Image.open(out)
    assert code == DONE and gif.n_frames == 4 and gif.size == (64, 64)
    assert b"AI" in gif.info["comment"]


@pytest.mark.parametrize(
    "options, word",
    [
        (["-o", "out.tiff"], ".webp, .gif"),
        (["-o", "out.gif", "--thresholds", "0.1,0.2"], "no rows"),
        (["-o", "out.png", "--thresholds", "a,b"], "not a list"),
        (["-o", "out.png", "--steps", "1"], "--steps"),
        (["-o", "out.png", "--from", "50"], "--from"),
    ],
)
def test_an_impossible_sweep_is_wrong_usage(styleclip, options, word):
    code, _, stderr = styleclip("sweep", AVATAR, *SAD_OPTIONS, *options)
    assert code == WRONG_USAGE and word in stderr


@pytest.mark.parametrize(
    "options, word",
    [
        (["-o", "out.webp", "--steps", "70"], "16383"),
        (["-o", "out.jpg", "--steps", "100", "--size", "650"], "65500"),
        (["-o", "out.png", "--steps", "100", "--size", "2048"], "million"),
    ],
)
def test_a_sheet_that_is_too_large_is_refused_before_it_is_drawn(
    styleclip, monkeypatch, options, word
):
    monkeypatch.setattr("styleclip_client.sweeps.draw", None)
    code, _, stderr = styleclip("sweep", AVATAR, *SAD_OPTIONS, *options)
    assert code == BAD_INPUT and word in stderr and "Traceback" not in stderr


def test_a_sheet_of_any_length_can_be_png():
    Grid([0.0] * 100, [0.1], [""]).check(650, "PNG")


def test_the_middle_of_a_sweep_is_zero_without_a_minus():
    assert [f"{strength:g}" for strength in evenly_spaced(-3.3, 6.6, 4)] == [
        "-3.3",
        "0",
        "3.3",
        "6.6",
    ]
