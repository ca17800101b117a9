"""What the generator answers in PyTorch: a JPEG file where one is wanted, else pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from styleclip_server import images
from styleclip_server.gpu import jpeg

BOTH = ("JPEG", "UNENCODED")  # what an ensemble asks for


@pytest.fixture
def image():
    y, x = np.mgrid[:32, :32].astype(np.uint8)
    picture = np.stack([4 * x, 4 * y, x + y], axis=-1)
    return torch.from_numpy(np.stack([picture, picture[::-1]]))


def column(*values, dtype=np.object_):
    return np.array(values, dtype)[:, None]


def test_a_file_takes_the_place_of_the_pixels(image):
    answer = jpeg.answers(image, BOTH)
    assert answer.keys() == set(BOTH)
    assert answer["UNENCODED"].shape == (2, 1, 1, 3)
    for file, picture in zip(answer["JPEG"][:, 0], image.numpy(), strict=True):
        with Image.open(io.BytesIO(file)) as decoded:
            assert decoded.format == "JPEG"
            assert np.abs(np.asarray(decoded, int) - picture).max() < 16


@pytest.mark.parametrize("asked", [("IMAGE",), ("IMAGE", *BOTH)])
def test_the_image_is_the_pixels_in_any_case(image, asked):
    answer = jpeg.answers(image, asked)
    assert answer.keys() == set(asked)
    np.testing.assert_array_equal(answer["IMAGE"], image)


def test_nothing_is_encoded_unless_asked_for(image, monkeypatch):
    monkeypatch.setattr(jpeg, "encode", None)
    np.testing.assert_array_equal(jpeg.answers(image, ["UNENCODED"])["UNENCODED"], image)


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
    answer = jpeg.answers(image, BOTH, **given)
    first, second = answer["JPEG"][:, 0]
    assert first.startswith(b"\xff\xd8") and second == b""
    np.testing.assert_array_equal(answer["UNENCODED"], image)


def test_each_row_has_its_own_quality(image):
    answer = jpeg.answers(image, BOTH, quality=column(95, 40, dtype=np.int32))
    expected = [images.encode(image[i].numpy(), "JPEG", q) for i, q in enumerate((95, 40))]
    assert answer["JPEG"][:, 0].tolist() == expected
