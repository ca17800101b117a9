"""What the generator answers in PyTorch: a JPEG file where one is wanted, else pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from styleclip_server.engines.cuda import jpeg
from styleclip_server.pipeline import images

BOTH = ("JPEG", "UNENCODED")  # what an ensemble asks for


@pytest.fixture
def image():
    y, x = np.mgrid[:32, :32].astype(np.uint8)
    picture = np.stack([4 * x, 4 * y, x + y], axis=-1)
    return torch.from_numpy(np.stack([picture, picture[::-1]]))


def column(*values, dtype=np.object_):
    return np.array(values, dtype)[:, None]


def answered(image, asked, **given):
    files = jpeg.encode(image, jpeg.qualities(len(image), asked, **given))
    return jpeg.answers(image, files, asked)


def test_a_file_takes_the_place_of_the_pixels(image):
    answer = answered(image, BOTH)
    assert answer.keys() == set(BOTH)
    assert answer["UNENCODED"].shape == (2, 1, 1, 3)
    for row, picture in zip(answer["JPEG"], image.numpy(), strict=True):
        file = images.without_zeros(row)
        assert file[-2:] == b"\xff\xd9"
        with Image.open(io.BytesIO(file)) as decoded:
            assert decoded.format == "JPEG"
            assert np.abs(np.asarray(decoded, int) - picture).max() < 16


@pytest.mark.parametrize("asked", [("IMAGE",), ("IMAGE", *BOTH)])
def test_the_image_is_the_pixels_in_any_case(image, asked):
    answer = answered(image, asked)
    assert answer.keys() == set(asked)
    np.testing.assert_array_equal(answer["IMAGE"], image)


def test_nothing_is_encoded_unless_asked_for(image):
    assert jpeg.qualities(2, ["UNENCODED"]) == [None, None]
    np.testing.assert_array_equal(answered(image, ["UNENCODED"])["UNENCODED"], image)


@pytest.mark.parametrize(
    "given",
    [
        {"format": column(b"JPEG", b"PNG")},
        {"format": column(b"jpeg", b"TIFF")},
        {"format": column(b"JPEG", b"\xff\xfe")},
        {"paste": column(False, True, dtype=np.bool_)},
        {"quality": column(95, 0, dtype=np.int32)},
        {"quality": column(1, 101, dtype=np.int32)},
    ],
)
def test_a_row_that_wants_no_jpeg_leaves_the_pixels(image, given):
    answer = answered(image, BOTH, **given)
    first, second = map(images.without_zeros, answer["JPEG"])
    assert first[:2] == b"\xff\xd8" and len(second) == 0
    np.testing.assert_array_equal(answer["UNENCODED"], image)


def test_each_row_has_its_own_quality(image):
    answer = answered(image, BOTH, quality=column(95, 40, dtype=np.int32))
    expected = [images.encode(image[i].numpy(), "JPEG", q) for i, q in enumerate((95, 40))]
    assert [bytes(images.without_zeros(row)) for row in answer["JPEG"]] == expected
    assert len(expected[1]) < len(expected[0]) == answer["JPEG"].shape[1]


def test_a_single_file_has_no_zeros_behind_it(image):
    assert answered(image[:1], BOTH)["JPEG"][0, -1] == 0xD9
