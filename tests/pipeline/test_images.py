"""Any bytes become an upright RGB image or a named error, in bounded memory."""

import io
import json
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, features

import icc_profiles
from image_files import claim_png_size, encode_image
from styleclip_contract import limits, photo_files
from styleclip_contract.errors import (
    ImageTooLarge,
    ImageTruncated,
    InvalidInput,
    NotAnImage,
    UnknownFormat,
)
from styleclip_server.pipeline import images

LEFT_RED = np.zeros((24, 40, 3), np.uint8)  # red on the left, blue on the right
LEFT_RED[:, :20, 0] = 255
LEFT_RED[:, 20:, 2] = 255


FORMATS = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]
if features.check("avif"):
    FORMATS.append("AVIF")


@pytest.mark.parametrize("format", FORMATS)
def test_every_accepted_format_becomes_rgb(format):
    image = images.decode(encode_image(Image.fromarray(LEFT_RED), format))
    assert type(image) is Image.Image and image.mode == "RGB" and image.size == (40, 24)
    difference = np.abs(np.asarray(image).astype(int) - LEFT_RED)
    assert difference[:, :16].max() <= 16 and difference[:, 24:].max() <= 16


@pytest.mark.parametrize("format", ["PPM", "ICO", "PDF", "EPS", "TGA", "PCX"])
def test_formats_not_used_for_photos_are_refused(format):
    with pytest.raises(NotAnImage, match="send one of JPEG, PNG"):
        images.decode(encode_image(Image.fromarray(LEFT_RED), format))


@pytest.mark.parametrize("data", [b"", b"hello", b"<svg/>", b"%PDF-1.7", bytes(4096)])
def test_bytes_that_are_not_an_image_are_refused(data):
    with pytest.raises(NotAnImage):
        images.decode(data)


@pytest.mark.parametrize("size", [(40_000, 40_000), (10_000, 5_001), (12_000, 12_000)])
def test_a_huge_header_is_refused_before_its_pixels_are_decoded(size):
    data = claim_png_size(encode_image(Image.fromarray(LEFT_RED)), *size)
    tracemalloc.start()
    with pytest.raises(ImageTooLarge, match="million"):
        images.decode(data)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_too_many_bytes_are_refused_before_they_are_parsed():
    with pytest.raises(ImageTooLarge, match="MiB"):
        images.decode(bytes(limits.PHOTO_BYTES + 1))


@pytest.mark.parametrize("format", FORMATS)
def test_a_truncated_file_is_refused(format):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    data = encode_image(Image.fromarray(noise), format)
    for fraction in (0.5, 0.9):
        with pytest.raises(ImageTruncated):
            images.decode(data[: int(len(data) * fraction)])
    assert ImageFile.LOAD_TRUNCATED_IMAGES is False


def test_a_corrupted_chunk_is_refused():
    data = bytearray(encode_image(Image.fromarray(LEFT_RED)))
    data[data.index(b"IDAT") + 6] ^= 0xFF
    with pytest.raises(ImageTruncated):
        images.decode(bytes(data))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_image_upright(format, orientation):
    upright = Image.fromarray(LEFT_RED)
    back = {6: 8, 8: 6}.get(orientation, orientation)  # the others undo themselves
    method = photo_files.UPRIGHT.get(back)
    stored = upright.transpose(method) if method is not None else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if format == "WEBP" else {}
    image = images.decode(encode_image(stored, format, exif=exif, **options))
    assert image.size == (40, 24)
    pixels = np.asarray(image)
    assert pixels[:, :16, 0].min() > 200 and pixels[:, 24:, 2].min() > 200


def test_an_image_with_broken_exif_is_decoded():
    data = encode_image(Image.fromarray(LEFT_RED), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert images.decode(data).size == (40, 24)


def test_transparency_is_blended_with_white():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    half = Image.new("LA", (4, 4), (0, 128))
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 9, 9, 9])
    assert images.decode(encode_image(clear)).getpixel((0, 0)) == (255, 255, 255)
    assert images.decode(encode_image(half)).getpixel((0, 0)) == (127, 127, 127)
    transparent = images.decode(encode_image(palette, transparency=1))
    assert transparent.getpixel((0, 0)) == (255, 255, 255)
    assert images.decode(encode_image(palette)).getpixel((0, 0)) == (9, 9, 9)


def test_grayscale_sixteen_bit_and_cmyk_become_rgb():
    gray = Image.new("L", (4, 4), 77)
    assert images.decode(encode_image(gray)).getpixel((0, 0)) == (77, 77, 77)
    assert images.decode(encode_image(Image.new("1", (4, 4), 1))).getpixel((0, 0)) == (255,) * 3
    deep = Image.fromarray(np.full((4, 4), 32896, np.uint16))
    for format in ("PNG", "TIFF"):
        assert images.decode(encode_image(deep, format)).getpixel((0, 0)) == (128, 128, 128)
    floats = Image.fromarray(np.array([[0, 0.5, 1, np.nan]], np.float32))
    row = np.asarray(images.decode(encode_image(floats, "TIFF")))[0, :, 0]
    assert row.tolist() == [0, 128, 255, 0]
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = images.decode(encode_image(cmyk, "JPEG")).getpixel((0, 0))
    assert red[0] > 240 and max(red[1:]) < 16


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_the_first_frame_of_an_animation_is_decoded(format):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    data = encode_image(first, format, save_all=True, append_images=[second])
    red, _, blue = images.decode(data).getpixel((4, 4))
    assert red > 240 and blue < 16


def test_cmyk_grayscale_and_lab_become_srgb_by_their_profiles():
    cmyk = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    data = encode_image(cmyk, "TIFF", icc_profile=icc_profiles.gray_inks())
    image = images.decode(data)
    assert image.getpixel((4, 4)) == pytest.approx((185, 185, 185), abs=2)  # L* of 75
    assert "icc_profile" not in image.info
    assert (
        images.decode(encode_image(cmyk, "TIFF")).getpixel((4, 4))[0] < 20
    )  # cyan without profile
    gray = encode_image(Image.new("L", (8, 8), 55), icc_profile=icc_profiles.linear_gray())
    assert images.decode(gray).getpixel((0, 0)) == pytest.approx((128, 128, 128), abs=2)
    deep = Image.fromarray(np.full((8, 8), 55 * 257, np.uint16))
    gray = encode_image(deep, "TIFF", icc_profile=icc_profiles.linear_gray())
    assert images.decode(gray).getpixel((0, 0)) == pytest.approx((128, 128, 128), abs=2)
    lab = encode_image(Image.new("LAB", (8, 8), (135, 128, 128)), "TIFF")
    assert images.decode(lab).getpixel((0, 0)) == pytest.approx((126, 126, 126), abs=3)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_wide_gamut_photo_keeps_its_pixels_and_its_profile(format):
    profile = icc_profiles.wide_rgb()
    image = images.decode(encode_image(Image.new("RGB", (8, 8), (200, 40, 40)), format,
                                    icc_profile=profile))  # fmt: skip
    assert image.getpixel((4, 4)) == pytest.approx((200, 40, 40), abs=4)
    assert image.info["icc_profile"] == profile


@pytest.mark.parametrize("profile", [b"", b"short", bytes(500), icc_profiles.wide_rgb()[:200]])
def test_a_broken_profile_is_ignored(profile):
    for mode in ("RGB", "L", "CMYK"):
        data = encode_image(Image.new(mode, (8, 8)), "TIFF", icc_profile=profile)
        assert "icc_profile" not in images.decode(data).info
    # a valid profile of another color space
    data = encode_image(Image.new("RGB", (8, 8), "red"), icc_profile=icc_profiles.linear_gray())
    image = images.decode(data)
    assert image.getpixel((0, 0)) == (255, 0, 0) and "icc_profile" not in image.info


def test_palette_with_alpha_and_sixteen_bit_colors_become_rgb():
    rgba = Image.new("RGBA", (8, 8), (200, 0, 0, 255))
    rgba.paste((0, 0, 200, 0), (0, 0, 4, 8))
    for format in ("PNG", "GIF", "WEBP"):
        options = {"lossless": True} if format == "WEBP" else {}
        palette = rgba.quantize(16) if format == "PNG" else rgba
        image = images.decode(encode_image(palette, format, **options))
        assert image.getpixel((1, 4)) == (255, 255, 255)
        assert image.getpixel((6, 4)) == pytest.approx((200, 0, 0), abs=2)
    rows = b"".join(b"\0" + struct.pack(">6H", 65535, 0, 32896, 0, 257, 65535) for _ in range(2))
    header = b"IHDR" + struct.pack(">IIBBBBB", 2, 2, 16, 2, 0, 0, 0)
    chunks = [header, b"IDAT" + zlib.compress(rows), b"IEND"]
    parts = [struct.pack(">I", len(c) - 4) + c + struct.pack(">I", zlib.crc32(c)) for c in chunks]
    image = images.decode(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    assert image.getpixel((0, 0)) == (255, 0, 128) and image.getpixel((1, 0)) == (0, 1, 255)


@pytest.mark.parametrize("orientation", [1, 6])
def test_heic_photos_are_decoded(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.repeat(np.repeat(LEFT_RED, 4, 0), 4, 1))
    if orientation == 6:
        stored = stored.transpose(Image.Transpose.ROTATE_90)
    buffer = io.BytesIO()
    pillow_heif.from_pillow(stored).save(buffer, quality=90, exif=exif.tobytes())
    data = buffer.getvalue()
    image = images.decode(data)
    assert image.size == (160, 96) and image.mode == "RGB" and type(image) is Image.Image
    pixels = np.asarray(image)
    assert pixels[:, :70, 0].min() > 200 and pixels[:, 90:, 2].min() > 200
    with pytest.raises(ImageTruncated):
        images.decode(data[: len(data) // 2])


def test_a_large_jpeg_is_decoded_reduced_if_enough_pixels_remain():
    image = Image.new("RGB", (1601, 803), "red")
    data = encode_image(image, "JPEG")
    half = images.decode(data, min_long_side=800)
    assert half.size == (801, 402) and half.info["full_size"] == (1601, 803)
    exif = Image.Exif()
    exif[0x0112] = 6
    quarter = images.decode(encode_image(image, "JPEG", exif=exif), min_long_side=400)
    assert quarter.size == (201, 401) and quarter.info["full_size"] == (803, 1601)
    for full in (
        images.decode(data),
        images.decode(data, 900),
        images.decode(encode_image(image), 9),
    ):
        assert full.size == (1601, 803) and "full_size" not in full.info


SEEDS = [encode_image(Image.fromarray(LEFT_RED), format) for format in FORMATS]


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(SEEDS), st.data())
def test_corrupted_files_give_an_image_or_a_named_error(seed, data):
    corrupted = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 6))):
        corrupted[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    try:
        image = images.decode(bytes(corrupted[: data.draw(st.integers(1, len(seed)))]))
    except InvalidInput:
        return
    assert image.mode == "RGB"


def test_200_malformed_real_files_give_an_image_or_a_named_error_in_bounded_memory(golden):
    script = Path(__file__).parents[1] / "support/fuzzed_images.py"
    photo = golden / "align" / "astronaut.png"
    command = [sys.executable, str(script), str(photo), "200", "0"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    report = json.loads(process.stdout)
    assert sum(report["outcomes"].values()) == 200
    assert set(report["outcomes"]) <= {"decoded", "NotAnImage", "ImageTruncated", "ImageTooLarge"}
    assert report["peak_mib"] < 300


FIFTY_MEGAPIXELS = r"""
import io, re, sys
from PIL import Image
from styleclip_server.pipeline import images
image = Image.new(sys.argv[1], (8000, 6250), 1)
buffer = io.BytesIO()
image.save(buffer, sys.argv[2])
pixel_mib = image.size[0] * image.size[1] * 4 / 2**20  # Pillow's 4 bytes for a pixel
del image
assert images.decode(buffer.getvalue()).size == (8000, 6250)
# Not `ru_maxrss`, which a process inherits from the one that started it.
peak = int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) / 1024
assert peak < 3 * pixel_mib, peak
"""


@pytest.mark.parametrize("kind", ["RGB JPEG", "CMYK JPEG", "I;16 PNG", "RGBA PNG"])
def test_a_photo_of_50_megapixels_takes_bounded_memory(kind):
    command = [sys.executable, "-c", FIFTY_MEGAPIXELS, *kind.split()]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]


@pytest.mark.parametrize("format", limits.FORMATS)
def test_images_are_encoded_in_the_requested_format(format):
    data = images.encode(LEFT_RED, format.lower(), 90)
    with Image.open(io.BytesIO(data)) as image:
        assert image.format == format and image.size == (40, 24)
        difference = np.abs(np.asarray(image.convert("RGB")).astype(int) - LEFT_RED)
    assert difference[:, :16].max() <= (0 if format == "PNG" else 16)


@pytest.mark.parametrize(
    ("format", "quality", "message"),
    [
        ("GIF", 90, "JPEG, PNG"),
        ("", 90, "FORMAT"),
        ("JPEG", 0, "1 to 100"),
        ("PNG", 101, "1 to"),
    ],
)
def test_another_format_or_quality_is_refused(format, quality, message):
    with pytest.raises(UnknownFormat, match=message):
        images.encode(LEFT_RED, format, quality)


def test_a_side_too_long_for_webp_is_refused_with_an_alternative():
    with pytest.raises(UnknownFormat, match="PNG"):
        images.encode(np.zeros((1, 16_384, 3), np.uint8), "WEBP", 90)
