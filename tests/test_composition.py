"""The face goes back into the photo where it came from, and nothing else changes."""

import io

import numpy as np
import pytest
from PIL import Image
from styleclip_client.errors import ImageTooLarge, InvalidInput, NotAnImage, UnknownFormat
from styleclip_server import alignment
from styleclip_server.composition import compose, paste_back

GREEN = np.zeros((256, 256, 3), np.uint8)
GREEN[..., 1] = 255
SQUARE = np.array([[100, 60], [100, 200], [240, 200], [240, 60]], np.float32)


def pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as picture:
        return np.asarray(picture)


def smooth_photo(width: int = 320, height: int = 260) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / 17 + y / 23 + phase) for phase in (0, 2, 4)]
    return Image.fromarray(np.rint(np.stack(waves, axis=-1)).astype(np.uint8))


def turned(degrees: float, centre=(160.0, 130.0), side: float = 120.0) -> np.ndarray:
    angle = np.deg2rad(degrees)
    x = np.array([np.cos(angle), np.sin(angle)]) * side / 2
    y = np.array([-x[1], x[0]])
    c = np.array(centre)
    return np.stack([c - x - y, c - x + y, c + x + y, c + x - y])


def test_without_paste_the_face_itself_is_encoded():
    np.testing.assert_array_equal(pixels(compose(GREEN, format="PNG")), GREEN)


def test_pixels_beyond_the_quad_are_the_photos_own():
    photo = smooth_photo()
    answer = pixels(compose(GREEN, photo, SQUARE, True, "PNG"))
    outside = np.ones(answer.shape[:2], bool)
    outside[60:201, 100:241] = False
    np.testing.assert_array_equal(answer[outside], np.asarray(photo)[outside])
    assert (answer[130, 170] == (0, 255, 0)).all()


def test_the_seam_is_feathered():
    black = Image.new("RGB", (320, 260))
    row = pixels(compose(GREEN, black, SQUARE, True, "PNG"))[130, :, 1].astype(int)
    assert row[100] == row[240] == 0 and row[170] == 255
    assert np.abs(np.diff(row)).max() < 40


@pytest.mark.parametrize("degrees", [0, 20, -75, 160])
@pytest.mark.parametrize("size", [256, 64])
def test_an_unchanged_face_gives_the_photo_back(degrees, size):
    photo, quad = smooth_photo(), turned(degrees)
    face = np.asarray(alignment.crop(photo, quad, size))
    answer = np.asarray(paste_back(face, photo, quad)).astype(int)
    assert np.abs(answer - np.asarray(photo)).max() <= 6


def test_an_unchanged_whole_picture_gives_the_photo_back_exactly():
    photo = smooth_photo(300, 256)
    face, quad = alignment.whole_picture(photo)
    np.testing.assert_array_equal(np.asarray(paste_back(face, photo, quad)), np.asarray(photo))


def test_a_large_face_is_filtered_before_it_is_made_small():
    checker = np.indices((1024, 1024)).sum(axis=0) % 2 * 255
    checker = np.repeat(checker[..., None], 3, axis=-1).astype(np.uint8)
    answer = np.asarray(paste_back(checker, smooth_photo(), turned(10)))
    assert np.abs(answer[110:150, 140:180].astype(int) - 127).max() <= 3


def test_a_face_partly_beyond_the_photo_is_pasted_where_there_is_photo():
    photo = Image.new("RGB", (200, 200))
    answer = np.asarray(paste_back(GREEN, photo, turned(15, centre=(10, 100), side=180)))
    assert answer.shape == (200, 200, 3)
    assert (answer[100, 0] == (0, 255, 0)).all() and (answer[:, 150:] == 0).all()


@pytest.mark.parametrize(
    "quad",
    [
        SQUARE[::-1],  # turned over
        SQUARE[[0, 2, 1, 3]],  # crossed
        np.zeros((4, 2)),
        np.full((4, 2), np.nan),
        SQUARE * 1e9,
        SQUARE + 5000,  # beside the photo
        SQUARE[:3],
    ],
)
def test_a_quad_that_holds_no_face_is_refused(quad):
    with pytest.raises(InvalidInput, match="QUAD"):
        compose(GREEN, smooth_photo(), quad, True)


def test_paste_needs_photo_and_quad():
    with pytest.raises(InvalidInput, match="PASTE needs PHOTO and QUAD"):
        compose(GREEN, smooth_photo(), None, True)
    with pytest.raises(InvalidInput, match="PASTE needs PHOTO and QUAD"):
        compose(GREEN, None, SQUARE, True)


def test_unusable_requests_are_refused_by_name():
    with pytest.raises(UnknownFormat):
        compose(GREEN, format="TIFF")
    with pytest.raises(NotAnImage):
        compose(np.zeros((0, 5, 3), np.uint8))
    with pytest.raises(ImageTooLarge):
        compose(np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)))
