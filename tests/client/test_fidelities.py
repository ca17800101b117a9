"""The fidelity of edits: what clients send for it, and what a domain without features refuses."""

import io
from dataclasses import replace

import numpy as np
import pytest

from paths import AVATAR
from styleclip_client import Client, Edit, Inverted, requests
from styleclip_client.batch.job import Job, plan_batch
from styleclip_client.batch.stores import Folder
from styleclip_client.commands.options import BAD_INPUT
from styleclip_contract import errors, limits, wire

LATENT_ALONE = Inverted(np.zeros((14, 512), np.float32), np.ones((4, 2), np.float32))
FACE = replace(LATENT_ALONE, crop=b"\x89PNG of a face\0")
EDIT = Edit("a face", "a sad face", 3.0, 0.1)
JPEG = requests.OutputOptions("JPEG", 95, True)


def test_a_latent_file_keeps_the_crop_and_is_otherwise_as_without_one():
    again = Inverted.from_bytes(FACE.to_bytes())
    assert again.crop == FACE.crop
    assert np.array_equal(again.w_plus, FACE.w_plus) and np.array_equal(again.quad, FACE.quad)
    buffer = io.BytesIO()
    np.savez(buffer, w_plus=FACE.w_plus, quad=FACE.quad)
    assert LATENT_ALONE.to_bytes() == buffer.getvalue()
    assert Inverted.from_bytes(buffer.getvalue()).crop is None


def test_features_are_requested_with_the_crop_and_a_latent_as_without_a_fidelity():
    edit = requests.build_edit_request(FACE, EDIT, JPEG)
    assert edit.tensors.keys().isdisjoint({"FIDELITY", "CROP"})
    assert requests.with_fidelity(edit, limits.LATENT, FACE) == edit
    with_features = requests.with_fidelity(edit, limits.FEATURES, FACE).tensors
    assert with_features.keys() - edit.tensors.keys() == {"FIDELITY", "CROP"}
    assert with_features["FIDELITY"].tolist() == [[b"features"]]
    assert with_features["CROP"].tolist() == [[FACE.crop]]
    delta = np.zeros(4, np.float32)
    drawn = requests.build_synthesis_request(FACE, delta, limits.FEATURES)
    assert drawn.model.name == "stylegan2" and {"FIDELITY", "CROP"} <= drawn.tensors.keys()
    assert requests.build_synthesis_request(FACE, delta, limits.LATENT).model is wire.STYLEGAN2
    with pytest.raises(errors.InvalidCrop, match="invert the photo"):
        requests.with_fidelity(edit, limits.FEATURES, LATENT_ALONE)


def test_an_inversion_requests_the_crop_for_features_only():
    invert = requests.build_invert_request(AVATAR, align=None, face=-1)
    assert requests.with_fidelity(invert, limits.LATENT).model is wire.INVERT
    with_features = requests.with_fidelity(invert, limits.FEATURES)
    assert [tensor.name for tensor in with_features.model.outputs] == ["W_PLUS", "QUAD", "CROP"]
    assert with_features.tensors == invert.tensors
    response = {
        "W_PLUS": FACE.w_plus[None],
        "QUAD": FACE.quad[None],
        "CROP": np.array([[FACE.crop]], np.object_),
    }
    assert requests.parse_inverted(response).crop == FACE.crop


def test_a_batch_is_resumed_with_its_fidelity_only(tmp_path):
    source, out = Folder(tmp_path), Folder(tmp_path / "out")
    job = Job(str(source), "avatars", "1", (EDIT,))
    plan_batch(job, source, out, overwrite=False)
    assert b"fidelity" not in out.read("styleclip-batch.json", 2**20)
    with_features = replace(job, fidelity=limits.FEATURES)
    with pytest.raises(errors.BatchMismatch, match="other fidelity"):
        plan_batch(with_features, source, out, overwrite=False)
    plan_batch(with_features, source, out, overwrite=True)
    plan_batch(with_features, source, out, overwrite=False)
    with pytest.raises(errors.BatchMismatch, match="other fidelity"):
        plan_batch(job, source, out, overwrite=False)


def test_a_domain_without_features_refuses_them_and_edits_by_default_as_ever(server):
    with Client(server.grpc_url) as client:
        for call in (
            lambda: client.invert(AVATAR, fidelity="features"),
            lambda: client.edit_photo(AVATAR, EDIT, fidelity="features"),
            lambda: client.edit(FACE, EDIT, fidelity="features"),
            lambda: client.paste(AVATAR, FACE, EDIT, fidelity="features"),
            lambda: client.draw(FACE, fidelity="features"),
        ):
            with pytest.raises(errors.UnknownFidelity, match="it has: latent"):
                call()
        inverted = client.invert(AVATAR)
        assert inverted.crop is None
        expected = client.edit(inverted.w_plus, EDIT)
        assert client.edit(replace(inverted, crop=FACE.crop), EDIT) == expected


@pytest.mark.parametrize(
    "command", [["edit", *("--target", "sad")], ["sweep", *("--target", "sad")], ["invert"]]
)
def test_commands_refuse_a_fidelity_that_the_domain_lacks(styleclip, tmp_path, command):
    out = tmp_path / ("out.npz" if command == ["invert"] else "out.png")
    code, stdout, stderr = styleclip(
        command[0], AVATAR, *command[1:], "--fidelity", "features", "-o", out
    )
    assert (code, stdout) == (BAD_INPUT, "") and not out.exists()
    assert "UnknownFidelity" in stderr and "it has: latent" in stderr


def test_a_batch_is_refused_before_its_first_photo(styleclip, tmp_path):
    out = tmp_path / "out"
    code, stdout, stderr = styleclip(
        "batch", AVATAR.parent, "--target", "sad", "--fidelity", "features", "-o", out
    )
    assert (code, stdout) == (BAD_INPUT, "") and "UnknownFidelity" in stderr
    assert not out.exists()
