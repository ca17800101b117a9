"""Photos decoded on the host for a GPU: by libjpeg or by Pillow, the outcome is always Pillow's."""

import itertools
import random
import struct

import numpy as np
import pytest
import torch
from PIL import Image

import icc_profiles
from fuzzed_images import malformed
from image_files import encode_image
from styleclip_contract import color_profiles, limits
from styleclip_contract.errors import ImageTooLarge, StyleclipError
from styleclip_server.engines.cuda.faces import decoding
from styleclip_server.engines.cuda.faces.decoding import decode_photos
from styleclip_server.pipeline import images

pytest.importorskip("simplejpeg")
with_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
LONG_SIDE = 4096
QUALITIES, SUBSAMPLINGS = (30, 75, 95), (0, 1, 2)  # 4:4:4, 4:2:2, 4:2:0
SIZES = ((1, 1), (7, 5), (8, 300), (97, 131), (640, 431))


@pytest.fixture(scope="module")
def astronaut(golden):
    with Image.open(golden / "align" / "astronaut.png") as image:
        return image.convert("RGB")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=with_gpu)], ids=["CPU", "GPU"])
def device(request):
    return torch.device(request.param)


@pytest.fixture
def by_pillow(monkeypatch):
    """Record the files that Pillow decodes."""
    files, decode = [], decoding._decode_by_pillow

    def record(device, min_long_side, data):
        files.append(data)
        return decode(device, min_long_side, data)

    monkeypatch.setattr(decoding, "_decode_by_pillow", record)
    return files


def encode(image, **options):
    return encode_image(image, "JPEG", **options)


def ordinary_files(astronaut):
    """Return JPEG files as cameras and libraries write them."""
    options = itertools.product(SIZES, QUALITIES, SUBSAMPLINGS, (False, True))
    files = [
        encode(astronaut.resize(size), quality=quality, subsampling=sampling, progressive=several)
        for size, quality, sampling, several in options
    ]
    for orientation in range(10):  # 0 and 9 are none
        exif = Image.Exif()
        exif[0x0112] = orientation
        files.append(encode(astronaut.resize((50, 30)), exif=exif))
    small = astronaut.resize((90, 70))
    files.append(encode(small, icc_profile=icc_profiles.wide_rgb()))
    files.append(encode(small, icc_profile=b"no profile" * 20))
    files.append(encode(small, restart_marker_blocks=3))
    files.append(with_size(encode(small), 91, 71))  # as many blocks
    files.append(encode(small) + b"followed by a video")
    return files


def with_size(jpeg, width, height):
    """Return a baseline JPEG file that claims another size."""
    at = jpeg.index(b"\xff\xc0") + 5
    return jpeg[:at] + struct.pack(">HH", height, width) + jpeg[at + 4 :]


def check_outcome(data, photo, long_side=LONG_SIDE):
    """Check that a photo, or its error, is that of `images.decode`."""
    try:
        expected = images.decode(data, long_side)
    except StyleclipError as error:
        assert (type(photo), str(photo)) == (type(error), str(error))
        return
    np.testing.assert_array_equal(photo.pixels.permute(1, 2, 0).cpu(), np.asarray(expected))
    assert photo.full_size == expected.info.get("full_size", expected.size)
    assert photo.profile == color_profiles.read_profile(expected, "RGB")


def test_ordinary_jpegs_have_pillows_pixels_without_pillow(astronaut, device, by_pillow):
    files = ordinary_files(astronaut)
    photos = decode_photos(files, device, LONG_SIDE)
    assert not by_pillow
    for data, photo in zip(files, photos, strict=True):
        assert photo.pixels.device.type == device.type and photo.pixels.is_contiguous()
        check_outcome(data, photo)
    assert {photo.profile for photo in photos} == {None, icc_profiles.wide_rgb()}


def test_other_files_are_left_to_pillow(astronaut, by_pillow):
    small = astronaut.resize((90, 70))
    jpeg, end = encode(small), b"\xff\xd9"
    adobe_rgb = b"\xff\xee\0\x0eAdobe\0\x64" + bytes(5)
    wrong_sizes = [(90, 700), (180, 70), (60, 70), (0, 70), (90, 0)]
    files = [
        encode(small.convert("L")),
        encode(small.convert("CMYK")),
        encode(small, keep_rgb=True),
        jpeg[:2] + adobe_rgb + jpeg[2:],
        encode_image(small, "PNG"),
        encode_image(small, "MPO", save_all=True, append_images=[small]),
        jpeg[:-2],
        *(jpeg[: len(jpeg) * eighths // 8] for eighths in range(8)),
        *(jpeg[: len(jpeg) * eighths // 8] + end for eighths in range(4, 8)),
        jpeg[: len(jpeg) // 2] + b"\xff\xfe" + jpeg[len(jpeg) // 2 :],
        jpeg[: len(jpeg) // 2] + bytes(50) + jpeg[len(jpeg) // 2 :],
        *(with_size(jpeg, *size) for size in wrong_sizes),
        b"\xff\xd8\xff hello \xff\xd9",
    ]
    photos = decode_photos(files, torch.device("cpu"), LONG_SIDE)
    assert sorted(by_pillow) == sorted(files)
    for data, photo in zip(files, photos, strict=True):
        check_outcome(data, photo)


@pytest.mark.filterwarnings("ignore")  # Pillow warns of corrupted files
def test_corrupted_files_have_pillows_outcome(astronaut, by_pillow):
    rng = random.Random(0)
    small = astronaut.resize((90, 70))
    intact = [
        encode(small, icc_profile=icc_profiles.wide_rgb()),
        encode(small, progressive=True),
        encode(small, quality=95, subsampling=0, restart_marker_blocks=2),
    ]
    files = [malformed(rng.choice(intact), rng) for _ in range(600)]
    photos = decode_photos(files, torch.device("cpu"), LONG_SIDE)
    for data, photo in zip(files, photos, strict=True):
        check_outcome(data, photo)
    assert 50 < len(by_pillow) < 550  # both ways are compared


def test_huge_photos_are_decoded_reduced_by_pillow(astronaut, by_pillow):
    files = [encode(astronaut.resize(size)) for size in ((199, 90), (200, 90))]
    photos = decode_photos(files, torch.device("cpu"), 100)
    assert by_pillow == files[1:]
    for data, photo in zip(files, photos, strict=True):
        check_outcome(data, photo, 100)
    assert photos[1].full_size == (200, 90) and photos[1].pixels.shape == (3, 45, 100)


def test_too_many_pixels_are_refused_before_memory_is_allocated(astronaut, monkeypatch):
    monkeypatch.setattr(decoding, "_allocate", None)
    side = int(limits.PHOTO_PIXELS**0.5) + 1
    data = with_size(encode(astronaut), side, side)
    (error,) = decode_photos([data], torch.device("cpu"), side)
    assert isinstance(error, ImageTooLarge)
    monkeypatch.setattr(limits, "PHOTO_BYTES", 999)
    (error,) = decode_photos([encode(astronaut)], torch.device("cpu"), LONG_SIDE)
    assert isinstance(error, ImageTooLarge)


@pytest.mark.parametrize("size", [(90, 71), (89, 70), (10, 10), (70, 90)])
def test_memory_of_another_size_than_libjpegs_is_not_written(
    astronaut, by_pillow, monkeypatch, size
):
    data = encode(astronaut.resize((90, 70)))
    header = decoding._Header(*size, orientation=1, profile=None)
    monkeypatch.setattr(decoding, "_read_plain_header", lambda *_, **__: header)
    (photo,) = decode_photos([data], torch.device("cpu"), LONG_SIDE)
    check_outcome(data, photo)
    assert by_pillow == [data]


def test_pillow_decodes_where_simplejpeg_is_not_installed(astronaut, by_pillow, monkeypatch):
    monkeypatch.setattr(decoding, "simplejpeg", None)
    files = [encode(astronaut), encode(astronaut, progressive=True)]
    for data, photo in zip(
        files, decode_photos(files, torch.device("cpu"), LONG_SIDE), strict=True
    ):
        check_outcome(data, photo)
    assert sorted(by_pillow) == sorted(files)
