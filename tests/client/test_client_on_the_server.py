"""The client on the real server with the avatars domain."""

import json
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from edit_texts import SUNGLASSES
from image_files import claim_png_size, encode_image
from paths import AVATAR, ROOT
from styleclip_client import Client, Edit
from styleclip_contract import errors


@pytest.fixture
def client(server):
    with Client(server.grpc_url, timeout=60) as client:
        yield client


def pixels_of(edited):
    return edited.array().astype(int)


def test_the_status_has_readiness_models_and_domain(client):
    status = client.status()
    assert status.live and status.ready
    serving = {model.name for model in status.models if model.state == "READY"}
    assert {"edit", "edit_photo", "invert"} <= serving
    assert status.domain == client.domain()
    assert status.domain.name == "avatars"


def test_a_photo_and_two_texts_give_an_edited_image(client):
    edited = client.edit_photo(AVATAR, client.domain().edit(SUNGLASSES), format="PNG")
    assert edited.image().format == "PNG"
    assert len(edited.channels) == 1 and edited.channels[0] > 0


def test_a_stronger_edit_changes_more(client):
    edit = client.domain().edit
    latent = client.invert(AVATAR).w_plus
    none, some, more = (
        pixels_of(client.edit(latent, edit(SUNGLASSES, strength=strength), format="PNG"))
        for strength in (0, 1, 4)
    )
    assert 0 < abs(some - none).mean() < abs(more - none).mean()


def test_editing_the_latent_equals_editing_the_photo(client):
    edit = client.domain().edit(SUNGLASSES)
    inverted = client.invert(AVATAR)
    assert inverted.w_plus.dtype == np.float32 and inverted.w_plus.shape[1] == 512
    assert inverted.quad.shape == (4, 2)
    from_latent = client.edit(inverted.w_plus, edit, format="PNG")
    from_photo = client.edit_photo(AVATAR, edit, format="PNG")
    assert from_latent.channels == from_photo.channels
    assert abs(pixels_of(from_latent) - pixels_of(from_photo)).max() <= 1


def test_channels_are_counted_for_each_edit(client):
    edit = client.domain().edit
    alone = client.edit_photo(AVATAR, edit(SUNGLASSES))
    both = client.edit_photo(AVATAR, [edit(SUNGLASSES), edit("a face with a beard")])
    assert len(both.channels) == 2
    assert both.channels[0] == alone.channels[0]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_the_image_has_the_requested_format(client, format):
    edited = client.edit_photo(AVATAR, client.domain().edit(SUNGLASSES), format=format)
    assert edited.image().format == format


def test_a_path_bytes_and_a_pil_image_give_the_same_edit(client):
    edit = client.domain().edit(SUNGLASSES)
    images = {
        client.edit_photo(photo, edit, format="PNG").picture
        for photo in (AVATAR, AVATAR.read_bytes(), Image.open(AVATAR))
    }
    assert len(images) == 1


def test_a_threshold_that_removes_every_channel_raises_no_channel_left(client):
    with pytest.raises(errors.NoChannelLeft, match=r"0\.\d"):
        client.edit_photo(AVATAR, client.domain().edit(SUNGLASSES, threshold=1))


BAD_PHOTOS = {
    errors.NotAnImage: b"this is no image",
    errors.ImageTruncated: AVATAR.read_bytes()[:5000],
    errors.ImageTooLarge: claim_png_size(AVATAR.read_bytes(), 40_000, 40_000),
}


@pytest.mark.parametrize("error, photo", BAD_PHOTOS.items(), ids=lambda value: str(value)[:40])
def test_a_bad_photo_raises_a_named_error_and_the_server_keeps_serving(client, error, photo):
    with pytest.raises(error):
        client.invert(photo)
    assert client.status().ready


def test_a_photo_without_a_face_raises_no_face_found(client):
    with pytest.raises(errors.NoFaceFound):
        client.invert(encode_image(Image.new("RGB", (320, 240), "white")), align=True)


def test_faces_are_reported_best_first_and_chosen_by_their_index(client, golden):
    case = json.loads((golden / "align/align.json").read_text("utf-8"))["astronaut"]
    photo = golden / "align/astronaut.png"
    faces = client.faces(photo)
    assert len(faces) == len(case["faces"]) == 2
    for index, (face, expected) in enumerate(zip(faces, case["faces"], strict=True)):
        assert face.box == tuple(expected["rect_ltrb"])
        assert face.score == pytest.approx(expected["score"], abs=1e-4)
        quad = client.invert(photo, align=True, face=index).quad
        assert quad == pytest.approx(np.array(expected["quad"]), abs=1e-3)


@pytest.mark.parametrize("paste", [False, True])
def test_the_metadata_contain_the_texts_unless_mark_is_false(client, paste):
    edits = client.domain().edit("a sad face"), client.domain().edit("a face with a hat")
    marked = client.edit_photo(AVATAR, edits, paste=paste).image().info["xmp"].decode()
    assert "a face → a sad face (α 5, β 0.15); a face → a face with a hat" in marked
    assert b"StyleCLIP" not in client.edit_photo(AVATAR, edits, paste=paste, mark=False).picture
    latent = client.invert(AVATAR).w_plus
    assert "a sad face" in client.edit(latent, edits).image().info["xmp"].decode()
    assert b"StyleCLIP" not in client.edit(latent, edits, mark=False).picture


def test_the_gps_position_of_a_photo_is_kept_only_on_request(client):
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (52.0, 31.0, 0.0)}
    photo, edit = encode_image(Image.open(AVATAR), exif=exif), client.domain().edit("a sad face")
    for keep in (False, True):
        edited = client.edit_photo(photo, edit, paste=True, keep_gps=keep)
        assert bool(edited.image().getexif().get_ifd(0x8825)) == keep


def test_the_readme_example_runs(server, tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    (tmp_path / "demo").symlink_to(ROOT / "demo")
    monkeypatch.chdir(tmp_path)
    exec(code.replace("localhost:8001", server.grpc_url), {})
    assert Image.open(tmp_path / "sad.png").size[0] > 0


def test_one_client_serves_several_threads(client):

    edits = [
        client.domain().edit(target)
        for target in (SUNGLASSES, "a sad face", "a face with a beard", "a face with red hair")
    ]
    latent = client.invert(AVATAR).w_plus

    def edit_image(edit: Edit):
        return client.edit(latent, edit, format="PNG").picture

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(edit_image, edits)) == [edit_image(edit) for edit in edits]


def test_the_direction_of_an_edit_moves_the_channels_that_the_edit_reports(client):
    domain = client.domain()
    edit = domain.edit(SUNGLASSES)
    delta = client.direction(edit)
    assert delta.shape == (sum(domain.style_channels),)
    inverted = client.invert(AVATAR)
    assert np.count_nonzero(delta) == client.edit(inverted.w_plus, edit).channels[0]


def test_the_timings_count_the_requests_of_each_model(client):
    client.edit_photo(AVATAR, client.domain().edit(SUNGLASSES))
    timings = {timing.name: timing for timing in client.timings()}
    assert timings["stylegan2"].requests >= 1
    assert timings["edit_photo"].seconds >= timings["edit_photo"].waiting >= 0
