"""A photo gives the same pixels as a file, as a PIL image, as an array and on the page."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

import icc_profiles
from image_files import encode_image
from paths import ROOT
from styleclip_client.images import photo_bytes
from styleclip_contract import photo_files
from styleclip_contract.errors import ImageTruncated, NotAnImage
from styleclip_server.pipeline import images

# Every mode that Pillow has, with a file format that keeps it.
MODES = {
    **dict.fromkeys(("1", "L", "P", "RGB", "RGBA", "LA", "I;16"), "PNG"),
    **dict.fromkeys(("CMYK", "YCbCr", "LAB", "I", "F", "PA", "RGBX", "I;16B", "I;16L"), "TIFF"),
    **dict.fromkeys(("HSV", "RGBa", "La", "I;16N"), ""),  # no file has these
}


def image_of_mode(mode):
    """A gradient; transparent on the left where the mode has transparency."""
    gray = np.tile(np.arange(0, 256, 8, np.uint8), (16, 1))
    if mode.startswith("I"):
        dtype = np.int32 if mode == "I" else np.uint16
        wide = Image.fromarray(gray.astype(dtype) * 257)
        if mode in ("I", "I;16"):
            return wide
        order = ">u2" if mode == "I;16B" else "<u2"
        data = (gray.astype(np.uint16) * 257).astype(order).tobytes()
        return Image.frombytes(mode, (32, 16), data)
    if mode == "F":
        return Image.fromarray(gray.astype(np.float32) / 255)
    color = Image.merge("RGB", [Image.fromarray(a) for a in (gray, gray[:, ::-1], gray // 2)])
    alpha = Image.fromarray(np.where(gray < 100, 0, 255).astype(np.uint8))
    transparent = color.copy()
    transparent.putalpha(alpha)
    if mode == "LAB":
        return Image.frombytes("LAB", (32, 16), np.dstack([gray, gray * 0, gray * 0]).tobytes())
    if mode == "PA":
        image = color.convert("L").convert("PA")
        image.putalpha(alpha)
        return image
    if mode in ("LA", "La"):
        return transparent.convert("LA").convert(mode)
    return transparent.convert(mode) if mode in ("RGBA", "RGBa") else color.convert(mode)


@pytest.mark.parametrize("mode", MODES)
def test_a_pil_image_gives_the_pixels_of_its_file(mode):
    image = image_of_mode(mode)
    assert image.mode == mode
    sent = np.asarray(images.decode(photo_bytes(image)))
    assert sent.std() > 10  # a gradient, not one color
    if MODES[mode]:
        assert np.array_equal(sent, np.asarray(images.decode(encode_image(image, MODES[mode]))))
    if "A" in mode.upper() and mode != "LAB":
        assert (sent[:, :8] == 255).all() and sent[:, 20:].mean() < 250
    assert np.array_equal(sent, np.asarray(photo_files.flatten(image)))


def test_a_palette_with_transparency_is_on_white_as_pil_image_and_as_file():
    image = image_of_mode("RGB").quantize(8)
    data = encode_image(image, "PNG", transparency=bytes([0] * 4 + [255] * 4))
    file = np.asarray(images.decode(data))
    assert np.array_equal(
        file, np.asarray(images.decode(photo_bytes(Image.open(io.BytesIO(data)))))
    )
    assert (file == 255).all(axis=2).any()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16"])
def test_an_array_gives_the_pixels_of_the_pil_image(mode):
    image = image_of_mode(mode)
    array, pil = (images.decode(photo_bytes(photo)) for photo in (np.asarray(image), image))
    assert np.array_equal(np.asarray(array), np.asarray(pil))


def test_a_profile_of_cmyk_is_applied_once():
    profile = icc_profiles.gray_inks()
    image = image_of_mode("CMYK")
    image.info["icc_profile"] = profile
    data = encode_image(image, "TIFF", icc_profile=profile)
    sent = images.decode(photo_bytes(image))
    assert np.array_equal(np.asarray(sent), np.asarray(images.decode(data)))


@pytest.mark.parametrize("name", [mode for mode, format in MODES.items() if format])
def test_the_page_displays_the_pixels_that_are_edited(name, monkeypatch):
    pytest.importorskip("streamlit", reason="the page's packages are missing: make ui")
    monkeypatch.syspath_prepend(str(ROOT / "streamlit-ui"))
    import photos

    data = encode_image(image_of_mode(name), MODES[name])
    assert np.array_equal(np.asarray(photos.decode(data)), np.asarray(images.decode(data)))
    assert photos.read_size(data) == (32, 16)


def test_no_message_has_the_address_of_a_python_object():
    for data in (b"II*\0" + bytes(60), b"\0\0\0\x18ftypheic" + bytes(80), b"\x89PNG\r\n\x1a\n"):
        with pytest.raises(ImageTruncated) as caught:
            images.decode(data)
        assert " at 0x" not in str(caught.value) and "BytesIO" not in str(caught.value)


def test_without_the_plugin_a_heic_photo_is_refused_with_what_to_install(monkeypatch):
    formats = tuple(name for name in photo_files.INPUT_FORMATS if name != "HEIF")
    monkeypatch.setattr(photo_files, "INPUT_FORMATS", formats)
    with pytest.raises(NotAnImage, match="pip install pillow-heif"):
        images.decode(b"\0\0\0\x18ftypheic" + bytes(80))


def test_what_reads_photos_installs_the_heic_plugin():
    for lock in ("server", "steps", "ui", "dev"):
        assert "\npillow-heif==" in (ROOT / "requirements" / f"{lock}.txt").read_text()
    assert "pillow_heif" in sys.modules
