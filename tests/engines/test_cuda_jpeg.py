"""What PyTorch's generator returns: for `edit` a file, for `compose` a JPEG file or pixels."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from styleclip_contract.errors import UnknownFormat
from styleclip_server.engines.cuda import jpeg
from styleclip_server.pipeline import composition, images
from styleclip_server.serving.backends import jpeg_outputs, picture_outputs


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


def encode_pictures(batch, **inputs):
    options = picture_outputs.file_options(len(batch), **inputs)
    files = jpeg.encode(batch, [each.jpeg_quality for each in options])
    return picture_outputs.encode_files(files, batch.numpy(), options, "mine", None)[:, 0]


def test_a_picture_is_the_file_of_compose(image):
    batch = torch.cat([image, image.flip(1), image])
    inputs = {
        "format": np.array([[b"JPEG"], [b"png"], [b"WEBP"]], np.object_),
        "quality": np.array([[60], [70], [80]], np.int32),
        "mark": np.array([[True], [True], [False]]),
        "texts": np.array([[b"a face"], [b"a sad face"], [b"a hat"]], np.object_),
    }
    for row, data in enumerate(encode_pictures(batch, **inputs)):
        format, quality, mark, texts = (inputs[name][row, 0] for name in inputs)
        assert data == composition.compose(
            batch[row].numpy(),
            format=format.decode(),
            quality=int(quality),
            domain="mine",
            texts=texts.decode(),
            marked=bool(mark),
        )
    (default,) = encode_pictures(image)
    assert default == composition.compose(image[0].numpy(), domain="mine")


@pytest.mark.parametrize(
    "inputs", [{"format": column(b"TIFF")}, {"quality": column(101, np.int32)}]
)
def test_a_file_that_compose_refuses_is_refused(image, inputs):
    with pytest.raises(UnknownFormat):
        encode_pictures(image, **inputs)
