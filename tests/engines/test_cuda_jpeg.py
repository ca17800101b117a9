"""What PyTorch's generator passes to `compose`: a JPEG file where that will do, else pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from styleclip_server.engines.cuda import jpeg
from styleclip_server.pipeline import images
from styleclip_server.serving.backends import jpeg_outputs


@pytest.fixture
def image():
    y, x = np.mgrid[:32, :32].astype(np.uint8)
    return torch.from_numpy(np.stack([4 * x, 4 * y, x + y], axis=-1))[None]


def column(value, dtype=np.object_):
    return np.array([[value]], dtype)


def render(image, requested=("RENDER",), **inputs):
    quality = jpeg_outputs.requested_jpeg_quality(len(image), **inputs)
    files = jpeg.encode(image, [quality] * len(image))
    return jpeg_outputs.build_outputs(requested, image, files[0])


def test_a_jpeg_file_replaces_the_pixels(image):
    outputs = render(image)
    assert outputs.keys() == {"RENDER"}
    assert outputs["RENDER"].shape[:2] == (1, 1) and outputs["RENDER"].shape[3:] == (1,)
    with Image.open(io.BytesIO(outputs["RENDER"].tobytes())) as decoded:
        assert decoded.format == "JPEG"
        assert np.abs(np.asarray(decoded, int) - image[0].numpy()).max() < 16


@pytest.mark.parametrize("requested", [("IMAGE",), ("IMAGE", "RENDER")])
def test_the_image_output_is_always_pixels(image, requested):
    outputs = render(image, requested)
    assert outputs.keys() == set(requested)
    np.testing.assert_array_equal(outputs["IMAGE"], image)


@pytest.mark.parametrize(
    "inputs",
    [
        {"format": column(b"PNG")},
        {"format": column(b"TIFF")},
        {"format": column(b"\xff\xfe")},
        {"paste": column(True, np.bool_)},
        {"quality": column(0, np.int32)},
        {"quality": column(101, np.int32)},
    ],
)
def test_a_request_that_a_jpeg_cannot_answer_gets_pixels(image, inputs):
    np.testing.assert_array_equal(render(image, **inputs)["RENDER"], image)


def test_a_request_of_several_rows_gets_pixels(image):
    rows = torch.cat([image, image.flip(1)])
    np.testing.assert_array_equal(render(rows)["RENDER"], rows)


def test_each_image_has_its_own_quality(image):
    batch = torch.cat([image, image, image])
    fine, none, coarse = jpeg.encode(batch, [95, None, 40])
    assert none is None and len(coarse) < len(fine)
    for file, quality in ((fine, 95), (coarse, 40)):
        assert bytes(file) == images.encode(image[0].numpy(), "JPEG", quality)
    inputs = {"format": column(b"jpeg"), "quality": column(40, np.int32)}
    assert render(image, **inputs)["RENDER"].tobytes() == bytes(coarse)
