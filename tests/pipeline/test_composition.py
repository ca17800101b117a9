"""A face is pasted back where it was cropped from, and the file says what was edited."""

import io
import json
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image, ImageFilter

import icc_profiles
from image_files import encode_image
from paths import GOLDEN
from styleclip_contract import limits
from styleclip_contract.errors import ImageTooLarge, InvalidInput, NotAnImage, UnknownFormat
from styleclip_server.pipeline import images, metadata
from styleclip_server.pipeline.alignment import crop_center
from styleclip_server.pipeline.composition import compose
from styleclip_server.pipeline.ffhq_crop import crop_quad
from styleclip_server.pipeline.pasting import paste_back

GREEN = np.zeros((256, 256, 3), np.uint8)
GREEN[..., 1] = 255
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
SQUARE = np.array([[100, 60], [100, 200], [240, 200], [240, 60]], np.float32)


def read_pixels(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image)


def smooth_photo(width: int = 320, height: int = 260) -> Image.Image:
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / 17 + y / 23 + phase) for phase in (0, 2, 4)]
    return Image.fromarray(np.rint(np.stack(waves, axis=-1)).astype(np.uint8))


def rotated_quad(degrees: float, center=(160.0, 130.0), side: float = 120.0) -> np.ndarray:
    angle = np.deg2rad(degrees)
    x = np.array([np.cos(angle), np.sin(angle)]) * side / 2
    y = np.array([-x[1], x[0]])
    c = np.array(center)
    return np.stack([c - x - y, c - x + y, c + x + y, c + x - y])


def test_without_paste_the_face_itself_is_encoded():
    np.testing.assert_array_equal(read_pixels(compose(GREEN, format="PNG")), GREEN)


def test_pixels_outside_the_quad_are_unchanged():
    photo = smooth_photo()
    result = read_pixels(compose(GREEN, photo, SQUARE, True, "PNG"))
    outside = np.ones(result.shape[:2], bool)
    outside[60:201, 100:241] = False
    np.testing.assert_array_equal(result[outside], np.asarray(photo)[outside])
    assert (result[130, 170] == (0, 255, 0)).all()


@pytest.fixture(scope="module")
def portrait() -> tuple[Image.Image, np.ndarray]:
    """The astronaut and the quad of her face."""
    index = json.loads((GOLDEN / "align" / "align.json").read_text())
    with Image.open(GOLDEN / "align" / "astronaut.png") as image:
        return image.convert("RGB"), np.array(index["astronaut"]["faces"][0]["quad"])


def paste_mask(photo: Image.Image, quad: np.ndarray) -> np.ndarray:
    """The weight of the face in each pixel, 0 to 255."""
    white = np.full((256, 256, 3), 255, np.uint8)
    result = paste_back(white, Image.new("RGB", photo.size), quad, match_colors=False)
    return np.asarray(result)[..., 0]


def psnr(one: np.ndarray, other: np.ndarray, where: np.ndarray) -> float:
    error = np.square(one.astype(float) - other)[where].mean()
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.parametrize("enlarged", [1, 3])
@pytest.mark.parametrize("size", [256, 1024])
def test_a_perfect_inversion_restores_the_photo(portrait, enlarged, size):
    photo, quad = portrait
    photo = photo.resize((512 * enlarged, 512 * enlarged), Image.Resampling.BICUBIC)
    quad = quad * enlarged
    face = np.asarray(crop_quad(photo, quad, size))
    result = np.asarray(paste_back(face, photo, quad.astype(np.float32)))
    mask = paste_mask(photo, quad)
    assert psnr(result, np.asarray(photo), mask > 127) > 50
    np.testing.assert_array_equal(result[mask == 0], np.asarray(photo)[mask == 0])


def test_the_mask_has_the_shape_of_a_head(portrait):
    photo, quad = portrait
    mask = paste_mask(photo, quad)
    index = json.loads((GOLDEN / "align" / "align.json").read_text())
    x, y = np.array(index["astronaut"]["faces"][0]["landmarks"], int).T
    assert (mask[y, x] == 255).all()  # jaw, brows, eyes, nose and mouth
    middle = quad.mean(axis=0)
    for corner in quad:
        x, y = np.rint(middle + 0.8 * (corner - middle)).astype(int)
        assert mask[y, x] == 0
    steps = np.abs(np.diff(mask.astype(int), axis=1)).max() * np.hypot(*(quad[3] - quad[0])) / 255
    assert steps < 14  # per width of the crop: the feather is at least a fourteenth of it


def shift_colors(face: np.ndarray) -> np.ndarray:
    """Simulate an inversion that shifts the colors and softens the face."""
    soft = Image.fromarray(face).filter(ImageFilter.GaussianBlur(0.7))
    levels = (np.asarray(soft, float) - 128) * 0.95 + 128 + (12, -2, -9)
    return np.rint(levels.clip(0, 255)).astype(np.uint8)


def test_a_color_shift_of_the_inversion_is_removed(portrait):
    photo, quad = portrait
    face = shift_colors(np.asarray(crop_quad(photo, quad)))
    mask = paste_mask(photo, quad)
    original = np.asarray(photo, float)
    off = {}
    for matched in (True, False):
        result = np.asarray(paste_back(face, photo, quad, matched), float) - original
        seam = (mask > 0) & (mask < 255)
        off[matched] = np.abs(result[seam]).mean(), np.abs(result[mask == 255].mean(axis=0)).max()
    assert off[True][0] < 2 < off[False][0]  # levels, over the seam
    assert off[True][1] < 1 and off[False][1] > 8  # the face's mean color


def test_an_edit_is_not_taken_for_a_color_shift(portrait):
    photo, quad = portrait
    face = np.asarray(crop_quad(photo, quad)).copy()
    y, x = np.mgrid[-1:1:256j, -1:1:256j]
    face[np.hypot(x, y) > 0.62] = (30, 90, 30)  # all around the face, as a hood would be
    result = np.asarray(paste_back(face, photo, quad))
    np.testing.assert_array_equal(result, np.asarray(paste_back(face, photo, quad, False)))


def test_the_photos_detail_does_not_show_through_an_edit(portrait):
    photo, quad = (portrait[0].resize((1536, 1536), Image.Resampling.BICUBIC), portrait[1] * 3)
    face = np.asarray(crop_quad(photo, quad)).copy()
    face[100:150, 60:200] = (20, 20, 25)  # dark glasses over the eyes
    result = np.asarray(paste_back(face, photo, quad)).astype(int)
    eyes = np.rint(quad.mean(axis=0)).astype(int) - (0, 12)
    band = result[eyes[1] - 20 : eyes[1] + 20, eyes[0] - 60 : eyes[0] + 60]
    assert np.abs(band - (20, 20, 25)).max() <= 3


def test_the_seam_is_feathered():
    black = Image.new("RGB", (320, 260))
    row = read_pixels(compose(GREEN, black, SQUARE, True, "PNG"))[130, :, 1].astype(int)
    assert row[100] == row[240] == 0 and row[170] == 255
    assert np.abs(np.diff(row)).max() < 40


@pytest.mark.parametrize("degrees", [0, 20, -75, 160])
@pytest.mark.parametrize("size", [256, 64])
def test_an_unedited_face_restores_the_photo(degrees, size):
    photo, quad = smooth_photo(), rotated_quad(degrees)
    face = np.asarray(crop_quad(photo, quad, size))
    result = np.asarray(paste_back(face, photo, quad)).astype(int)
    assert np.abs(result - np.asarray(photo)).max() <= 6


def test_an_unedited_center_crop_restores_the_photo_exactly():
    photo = smooth_photo(300, 256)
    face, quad = crop_center(photo)
    np.testing.assert_array_equal(np.asarray(paste_back(face, photo, quad)), np.asarray(photo))
    photo = smooth_photo(300, 192)
    face, quad = crop_center(photo, (192, 256))
    np.testing.assert_array_equal(np.asarray(paste_back(face, photo, quad)), np.asarray(photo))


def test_a_large_face_is_filtered_before_it_is_reduced():
    checker = np.indices((1024, 1024)).sum(axis=0) % 2 * 255
    checker = np.repeat(checker[..., None], 3, axis=-1).astype(np.uint8)
    result = np.asarray(paste_back(checker, smooth_photo(), rotated_quad(10)))
    assert np.abs(result[110:150, 140:180].astype(int) - 127).max() <= 3


def test_a_face_partly_outside_the_photo_is_pasted_inside_it():
    photo = Image.new("RGB", (200, 200))
    result = np.asarray(paste_back(GREEN, photo, rotated_quad(15, center=(10, 100), side=180)))
    assert result.shape == (200, 200, 3)
    assert (result[100, 0] == (0, 255, 0)).all() and (result[:, 150:] == 0).all()


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
def test_an_unusable_quad_is_refused(quad):
    with pytest.raises(InvalidInput, match="QUAD"):
        compose(GREEN, smooth_photo(), quad, True)


def phone_photo(orientation: int, **options) -> bytes:
    """A JPEG file as a phone writes it: rotated, with location, serial number and maker notes."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010F], exif[0x8298] = "Maker", "a photographer"
    exif[0x8769] = {
        0x9003: "2024:05:06 07:08:09",
        0xA431: "serial 123",
        0x927C: b"notes",
        0x8827: 200,
    }
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 0.0), 3: "E", 4: (13.0, 24.0, 0.0)}
    turn = {6: Image.Transpose.ROTATE_90, 1: None}[orientation]
    photo = smooth_photo() if turn is None else smooth_photo().transpose(turn)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" exif:GPSLatitude="52,31N"/>'
    return encode_image(photo, "JPEG", quality=95, exif=exif, xmp=xmp, **options)


@pytest.mark.parametrize("format", limits.FORMATS)
@pytest.mark.parametrize("orientation", [1, 6])
def test_exif_and_profile_are_kept_but_not_the_location(format, orientation):
    profile = icc_profiles.wide_rgb()
    photo = images.decode(phone_photo(orientation, icc_profile=profile))
    data = compose(GREEN, photo, SQUARE, True, format)
    assert b"GPS" not in data and b"serial 123" not in data and b"notes" not in data
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (320, 260)  # upright, and no reader turns it again:
        exif = image.getexif()
        assert exif.get(0x0112, 1) == 1 and not exif.get_ifd(0x8825)
        assert exif[0x010F] == "Maker" and exif[0x8298] == "a photographer"
        details = exif.get_ifd(0x8769)
        assert details[0x9003] == "2024:05:06 07:08:09" and details[0x8827] == 200
        assert image.info["icc_profile"] == profile


@pytest.mark.parametrize("format", limits.FORMATS)
def test_the_metadata_say_that_ai_edited_the_image(format):
    photo = images.decode(phone_photo(6))
    labels = {"domain": "FFHQ & friends", "texts": 'a face → a "sad" face\0 (α 5, β 0.15)'}
    alone = compose(GREEN, format=format, **labels)
    pasted = compose(GREEN, photo, SQUARE, True, format, **labels)
    for data, kind in ((alone, "/trained"), (pasted, "/compositeWithTrained")):
        with Image.open(io.BytesIO(data)) as image:
            exif, xmp = image.getexif(), image.info["xmp"]
            if format == "PNG":
                assert image.text["Comment"].startswith("edited with StyleCLIP (AI): a face → ")
        assert exif[0x0131].startswith("StyleCLIP") and exif[0x010E] == "edited with StyleCLIP (AI)"
        (about,) = ElementTree.fromstring(xmp).iter(RDF + "Description")
        assert about.get(IPTC + "DigitalSourceType").endswith(f"{kind}AlgorithmicMedia")
        assert about.get(IPTC + "AISystemUsed") == "StyleCLIP, FFHQ & friends"
        prompt = about.get(IPTC + "AIPromptInformation")
        assert prompt == 'a face → a "sad" face  (α 5, β 0.15)'
        plain = compose(GREEN, photo, SQUARE, True, format, marked=False)
        assert b"StyleCLIP" not in plain and b"AlgorithmicMedia" not in plain


@pytest.mark.parametrize("format", limits.FORMATS)
def test_very_long_texts_are_shortened_to_fit_into_the_file(format):
    data = compose(GREEN, format=format, texts="\"'" * 25_000)
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        assert b"&quot;' \xe2\x80\xa6" in image.info["xmp"]


@pytest.mark.parametrize("format", limits.FORMATS)
def test_the_location_is_kept_only_on_request(format):
    for gps in (False, True):
        data = compose(GREEN, images.decode(phone_photo(6), keep_gps=gps), SQUARE, True, format)
        with Image.open(io.BytesIO(data)) as image:
            assert bool(image.getexif().get_ifd(0x8825)) == gps


def test_a_face_is_pasted_into_a_wide_gamut_photo_in_its_color_space():
    photo = Image.new("RGB", (320, 260), (90, 140, 60))
    photo.info["icc_profile"] = icc_profiles.wide_rgb()
    face, quad = crop_center(photo)
    assert (np.abs(face[100, 100].astype(int) - (90, 140, 60)) > 3).any()  # sRGB has others
    result = np.asarray(paste_back(face, photo, quad)).astype(int)
    assert np.abs(result - (90, 140, 60)).max() <= 2


def test_paste_needs_photo_and_quad():
    with pytest.raises(InvalidInput, match="PASTE needs PHOTO and QUAD"):
        compose(GREEN, smooth_photo(), None, True)
    with pytest.raises(InvalidInput, match="PASTE needs PHOTO and QUAD"):
        compose(GREEN, None, SQUARE, True)


def test_invalid_requests_raise_a_named_error():
    with pytest.raises(UnknownFormat):
        compose(GREEN, format="TIFF")
    with pytest.raises(NotAnImage):
        compose(np.zeros((0, 5, 3), np.uint8))
    with pytest.raises(ImageTooLarge):
        compose(np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)))


def test_metadata_inserted_into_a_jpeg_file_reads_like_metadata_that_pillow_writes():
    """The GPU encoder writes no metadata."""
    gray = np.full((16, 16, 3), 90, np.uint8)
    extra = metadata.collect(None, metadata.describe_edit("avatars", "a face → a sad face", False))
    bare = images.encode(gray, "JPEG", 95)
    read = []
    for data in (metadata.insert_into_jpeg(bare, extra), images.encode(gray, "JPEG", 95, extra)):
        with Image.open(io.BytesIO(data)) as image:
            read.append((dict(image.getexif()), image.info["xmp"], np.asarray(image).tolist()))
    assert read[0] == read[1] and b"a sad face" in read[0][1]
    assert metadata.insert_into_jpeg(bare, metadata.Metadata()) == bare


PASTED = {"photo": smooth_photo(), "quad": SQUARE, "paste": True}


def as_image(file):
    """The bytes of a file in place of an image's pixels."""
    return np.frombuffer(file, np.uint8).reshape(1, -1, 1)


def test_a_face_that_is_a_jpeg_already_is_not_encoded_again():
    drawn = images.encode(np.asarray(smooth_photo()), "JPEG", 80)
    data = compose(as_image(drawn), format="jpeg", domain="avatars", texts="a sad face")
    np.testing.assert_array_equal(read_pixels(data), read_pixels(drawn))
    with Image.open(io.BytesIO(data)) as image:
        assert b"a sad face" in image.info["xmp"]
    assert compose(as_image(drawn), marked=False) == drawn
    with pytest.raises(UnknownFormat):
        compose(as_image(drawn), quality=0)


@pytest.mark.parametrize("options", [{"format": "PNG"}, {"format": "WEBP"}, PASTED])
def test_a_jpeg_is_refused_where_pixels_are_needed(options):
    drawn = images.encode(np.asarray(smooth_photo()), "JPEG", 80)
    with pytest.raises(InvalidInput, match="JPEG file"):
        compose(as_image(drawn), **options)


@pytest.mark.parametrize("data", [b"\0", b"", b"\xff\xd8\xff", b"GIF89a, no JPEG"])
def test_bytes_that_are_not_a_jpeg_are_refused(data):
    with pytest.raises(NotAnImage):
        compose(as_image(data))


@pytest.mark.parametrize("shape", [(8, 8, 1), (2, 8, 1), (8, 8, 4), (1, 8, 0)])
def test_a_tensor_that_is_neither_pixels_nor_a_file_is_refused(shape):
    with pytest.raises(NotAnImage):
        compose(np.zeros(shape, np.uint8))
