"""Which face is taken, what is refused, very large photos, and pictures that are not aligned.

Boxes, landmarks, quads and crops are compared with the official code's in test_verify.py.
"""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from styleclip_client.errors import FaceIndexOutOfRange, LandmarksMissing, NoFaceFound
from styleclip_server import alignment

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


def hide_landmarks(monkeypatch) -> None:
    monkeypatch.setattr(alignment.importlib.util, "find_spec", lambda name: None)
    alignment._predictor.cache_clear()


@with_landmarks
def test_a_very_large_photo_is_searched_in_a_smaller_copy(golden):
    small = photo(golden, "head160")
    large = small.resize((3520, 3520), Image.Resampling.BICUBIC)
    (face,) = alignment.find_faces(large)
    (expected,) = cases(golden)["head160"]["faces"]
    quad = alignment.quad_of(face.landmarks) / 22
    np.testing.assert_allclose(quad, expected["quad"], atol=6)  # of 126 pixels


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
