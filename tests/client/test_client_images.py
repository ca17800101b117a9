"""Photos as they are sent, images and latents as they are saved."""

import io

import numpy as np
import pytest
from PIL import Image

from image_files import encode_image
from styleclip_client import Edited, Inverted
from styleclip_client.images import photo_bytes, write_file
from styleclip_contract import errors, limits


@pytest.fixture
def image():
    pixels = np.random.default_rng(0).integers(0, 256, (8, 6, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def test_a_file_and_bytes_are_sent_unchanged(tmp_path, image):
    path = tmp_path / "photo.jpg"
    image.save(path)
    assert photo_bytes(path) == photo_bytes(str(path)) == path.read_bytes()
    assert photo_bytes(path.read_bytes()) == path.read_bytes()


def test_a_pil_image_is_sent_losslessly(image):
    sent = Image.open(io.BytesIO(photo_bytes(image)))
    assert np.array_equal(np.asarray(sent), np.asarray(image))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "1"])
def test_a_pil_image_of_any_mode_can_be_sent(image, mode):
    assert Image.open(io.BytesIO(photo_bytes(image.convert(mode)))).size == image.size


@pytest.mark.parametrize("channels", [None, 3, 4])
def test_an_array_is_sent_losslessly(channels):
    shape = (8, 6) if channels is None else (8, 6, channels)
    pixels = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    sent = Image.open(io.BytesIO(photo_bytes(pixels[:, ::-1])))
    assert np.array_equal(np.asarray(sent), pixels[:, ::-1])


@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((8, 6, 3), np.float32),
        np.zeros((3, 8, 6), np.uint8),
        np.zeros((1, 8, 6, 3), np.uint8),
        np.zeros((0, 6, 3), np.uint8),
        np.zeros(3, np.uint8),
    ],
)
def test_an_array_that_is_not_an_image_is_refused_with_the_expected_shape(pixels):
    with pytest.raises(errors.NotAnImage, match=r"uint8 of \[height, width\]"):
        photo_bytes(pixels)


def test_a_pil_image_is_turned_upright(tmp_path, image):
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    sent = Image.open(io.BytesIO(photo_bytes(Image.open(tmp_path / "turned.png"))))
    assert sent.size == (image.height, image.width)
    assert sent.getexif().get(0x0112, 1) == 1


def test_a_photo_over_the_limit_is_refused_before_it_is_sent(tmp_path):
    path = tmp_path / "big.jpg"
    with path.open("wb") as file:
        file.truncate(limits.PHOTO_BYTES + 1)
    with pytest.raises(errors.ImageTooLarge, match="MiB"):
        photo_bytes(path)
    with pytest.raises(errors.ImageTooLarge, match="MiB"):
        photo_bytes(bytes(limits.PHOTO_BYTES + 1))


def test_an_empty_photo_is_refused(tmp_path):
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(errors.NotAnImage, match="empty"):
        photo_bytes(tmp_path / "empty.jpg")


def test_a_missing_photo_raises_file_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        photo_bytes(tmp_path / "none.jpg")


def test_a_file_created_in_the_meantime_is_kept_even_without_hard_links(tmp_path, monkeypatch):
    path = tmp_path / "out.bin"
    write_file(path, b"first", overwrite=False)

    def no_links(self, target):
        raise PermissionError("no links here")

    monkeypatch.setattr(type(path), "hardlink_to", no_links)
    with pytest.raises(FileExistsError):
        write_file(path, b"second", overwrite=False)
    write_file(tmp_path / "other.bin", b"third", overwrite=False)
    assert path.read_bytes() == b"first"
    assert (tmp_path / "other.bin").read_bytes() == b"third"
    assert len(list(tmp_path.iterdir())) == 2


def test_a_file_is_overwritten_only_on_request(tmp_path):
    path = tmp_path / "out.bin"
    write_file(path, b"first", overwrite=False)
    with pytest.raises(FileExistsError):
        write_file(path, b"second", overwrite=False)
    assert path.read_bytes() == b"first"
    write_file(path, b"second", overwrite=True)
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]  # no temporary file stays


def test_an_edited_image_is_decoded_and_saved_unchanged(tmp_path, image):
    edited = Edited(encode_image(image), [3])
    assert np.array_equal(np.asarray(edited.image()), np.asarray(image))
    assert np.array_equal(edited.array(), np.asarray(image))
    edited.save(tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes() == edited.picture


def test_a_latent_is_loaded_as_it_was_saved(tmp_path):
    rng = np.random.default_rng(0)
    inverted = Inverted(
        rng.standard_normal((14, 512), np.float32), rng.standard_normal((4, 2), np.float32)
    )
    inverted.save(tmp_path / "w.npz")
    again = Inverted.load(tmp_path / "w.npz")
    assert np.array_equal(again.w_plus, inverted.w_plus)
    assert np.array_equal(again.quad, inverted.quad)


def test_a_file_that_is_not_a_latent_is_refused(tmp_path):
    path = tmp_path / "w.npz"
    for content in (b"", b"not a zip file", b"PK\x03\x04 cut off"):
        path.write_bytes(content)
        with pytest.raises(errors.InvalidLatent):
            Inverted.load(path)
    np.savez(path, w_plus=np.zeros((14, 3)), quad=np.zeros((4, 2)))
    with pytest.raises(errors.InvalidLatent, match="512"):
        Inverted.load(path)


def test_pickled_objects_in_a_latent_file_are_never_loaded(tmp_path):
    np.savez(tmp_path / "w.npz", w_plus=np.array([{"an": "object"}], object), quad=np.zeros((4, 2)))
    with pytest.raises(errors.InvalidLatent):
        Inverted.load(tmp_path / "w.npz")
