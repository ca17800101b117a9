"""Edits by named directions on a real server: client, command, errors, and a latent mapper."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from paths import AVATAR, ROOT, SAMPLES
from servers import running_server
from styleclip_client import Client, Edit
from styleclip_client.commands.options import BAD_INPUT, DONE, WRONG_USAGE
from styleclip_contract import errors
from styleclip_export.cli import run
from styleclip_networks.mapper import LatentMapper
from styleclip_server.serving.options import Options

AVATARS = ROOT / "model_repository/avatars"
BEARD, SMILE = Edit(direction="beard", strength=3), Edit(direction="smile", strength=-2)


@pytest.fixture(scope="module", params=["gRPC", "HTTP"])
def client(request, server):
    url = server.grpc_url if request.param == "gRPC" else f"http://{server.http_url}"
    with Client(url) as client:
        yield client


@pytest.fixture(scope="module")
def face(server):
    with Client(server.grpc_url) as client:
        return client.invert(AVATAR)


def offset(name):
    with np.load(AVATARS / f"directions/{name}.npz") as file:
        return file["offset"]


def test_directions_and_texts_are_summed(client, face):
    text = client.domain().edit("a sad face")
    delta = client.direction([BEARD, text, SMILE])
    expected = 3 * offset("beard") + client.direction(text) - 2 * offset("smile")
    np.testing.assert_allclose(delta, expected, atol=1e-5)
    edited = client.edit(face.w_plus, [BEARD, text, SMILE], format="PNG")
    assert np.array_equal(edited.array(), client.draw(face.w_plus, [BEARD, text, SMILE]))
    assert edited.channels[::2] == [np.count_nonzero(offset(n)) for n in ("beard", "smile")]
    by_photo = client.edit_photo(AVATAR, [BEARD, text, SMILE], format="PNG")
    assert np.array_equal(by_photo.array(), edited.array())
    assert "beard (3)" in edited.image().info["XML:com.adobe.xmp"]


def test_each_shipped_direction_changes_the_face(client, face):
    before = client.draw(face.w_plus).astype(int)
    directions = client.domain().directions
    assert len(directions) >= 2
    for direction in directions:
        changed = (
            client.draw(face.w_plus, [direction.edit(3)]) - before,
            client.draw(face.w_plus, [direction.edit(-3)]) - before,
        )
        assert max(np.abs(difference).mean() for difference in changed) > 0.3, direction


@pytest.mark.parametrize(
    "edit, error, message",
    [
        (Edit(direction="mood", strength=1), errors.UnknownDirection, "it has: smile, beard"),
        (Edit(direction="beard", strength=9), errors.InvalidStrength, "-5 to 5 is expected"),
    ],
)
def test_the_server_refuses_what_the_domain_lacks_by_name(client, face, edit, error, message):
    for call in (
        lambda: client.edit(face.w_plus, edit),
        lambda: client.edit_photo(AVATAR, [BEARD, edit]),
        lambda: client.direction(edit),
    ):
        with pytest.raises(error, match=message):
            call()
    assert client.edit(face.w_plus, BEARD).channels


def test_the_command_lists_directions_and_edits_by_them(styleclip, tmp_path, face, client):
    code, output, _ = styleclip("domain")
    assert code == DONE and "beard" in output and "-5 to 5" in output
    code, output, _ = styleclip("domain", "--json")
    assert {"name": "beard", "low": -5.0}.items() <= json.loads(output)["directions"][1].items()
    out = tmp_path / "edited.png"
    options = ["--direction", "beard=3", "--direction", "smile=-2"]
    assert styleclip("edit", AVATAR, *options, "-o", out)[0] == DONE
    expected = client.edit(face.w_plus, [BEARD, SMILE], format="PNG").array()
    assert np.array_equal(np.asarray(Image.open(out)), expected)
    strip = tmp_path / "strip.png"
    options = ["--direction", "beard=1", "--steps", 2, "--size", 64, "-o", strip, "--json"]
    code, output, _ = styleclip("sweep", AVATAR, *options)
    assert code == DONE and json.loads(output)["strengths"] == [-5, 5]
    for option, status, message in (
        ("beard=lots", WRONG_USAGE, "NAME=STRENGTH is expected"),
        ("mood=1", BAD_INPUT, "UnknownDirection"),
        ("beard=9", BAD_INPUT, "-5 to 5"),
    ):
        code, _, error = styleclip("edit", AVATAR, "--direction", option, "-o", tmp_path / "x.png")
        assert code == status and message in error
    assert not (tmp_path / "x.png").exists()


def test_a_latent_mapper_moves_each_face_as_in_pytorch(tmp_path, capsys):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        mapper = LatentMapper(("coarse", "medium"))
    names = {
        "coarse.": "mapper.course_mapping.mapping.",
        "medium.": "mapper.medium_mapping.mapping.",
    }
    state = {}
    for name, value in mapper.state_dict().items():
        for ours, official in names.items():
            name = name.replace(ours, official)
        state[name] = value
    torch.save({"state_dict": state, "opts": {"no_fine_mapper": True}}, tmp_path / "mohawk.pt")
    shutil.copytree(AVATARS, tmp_path / "domains/avatars")
    arguments = ["directions", "add", "avatars", str(tmp_path / "mohawk.pt")]
    assert run([*arguments, "--repository", str(tmp_path / "domains")]) == 0
    capsys.readouterr()
    edit, beard = Edit(direction="mohawk", strength=2), Edit(direction="beard", strength=1)
    options = Options(domain="avatars", domains=tmp_path / "domains", log=tmp_path / "log")
    with running_server(options) as server, Client(server.grpc_url) as client:
        assert client.domain().direction("mohawk").follows_face
        moved = []
        for photo in (AVATAR, SAMPLES / "avatar-2.png"):
            w_plus = client.invert(photo).w_plus
            with torch.no_grad():
                mapped = w_plus + 0.2 * mapper(torch.tensor(w_plus[np.newaxis]))[0].numpy()
            edited = client.edit(w_plus, [edit], format="PNG").array().astype(int)
            # Some CPUs run the networks in bfloat16; test_directions_command.py compares exactly.
            difference = np.abs(edited - client.draw(mapped)).mean()
            assert difference < 0.25 * np.abs(edited - client.draw(w_plus)).mean()
            moved.append(client.direction([beard, edit], w_plus))
            assert client.edit_photo(photo, [beard, edit]).channels[1] > 0
        assert np.abs(moved[0] - moved[1]).max() > 0.01
        with pytest.raises(errors.InvalidLatent, match="mohawk depends on the face"):
            client.direction(edit)
