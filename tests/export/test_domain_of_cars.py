"""A domain whose images are not square: e4e's encoder of cars, by its training's options."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image

from checkpoint_files import e4e_checkpoint
from image_files import encode_image
from servers import running_server
from small_networks import small_clip, small_encoder, small_generator
from styleclip_client import Client
from styleclip_export import cli
from styleclip_export.convert.random_inputs import latent_factory, random_faces
from styleclip_export.domains import DOMAINS
from styleclip_export.npz_files import save_npz
from styleclip_server.serving import installation, preflight
from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.options import Options, default_repository


@pytest.fixture(scope="module")
def networks():
    with torch.random.fork_rng():
        torch.manual_seed(5)
        # Wide enough in the middle for Winograd's convolutions.
        encoder = small_encoder(8, 512, widths=(8, 16, 128, 24)).eval()
        generator = small_generator(channel_base=256, channel_max=16, w_dim=512).eval()
        clip = small_clip(64, image_resolution=32, vision_patch_size=16).eval()
    return encoder, generator, clip


@pytest.fixture(scope="module")
def repository(networks, tmp_path_factory):
    """The domain `mine`."""
    encoder, generator, clip = networks
    folder = tmp_path_factory.mktemp("mine")
    options = {"encoder_type": "Encoder4Editing", "dataset_type": "cars_encode"}
    states = encoder.state_dict(), generator.state_dict()
    torch.save(e4e_checkpoint(*states, torch.zeros(8, 512), options), folder / "e4e_mine.pt")
    torch.save(clip.state_dict(), folder / "ViT-small.pt")
    where = ["--weights", str(folder), "--repository", str(folder / "models")]
    assert cli.run(["convert", "mine", "--no-half", *where]) == 0
    (folder / "models" / "steps").symlink_to(default_repository() / "steps")
    size = sum(generator.style_channels)
    fs3 = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    arrays = {
        "style_mean": np.zeros(size, np.float32),
        "style_std": np.ones(size, np.float32),
        "fs3": fs3 / np.linalg.norm(fs3, axis=1)[:, None],
    }
    save_npz(folder / "models" / "mine" / "statistics.npz", arrays)
    return folder / "models"


def run_onnx(repository, network, *inputs):
    session = onnxruntime.InferenceSession(str(repository / "mine" / network / "1" / "model.onnx"))
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, {n: x.numpy() for n, x in zip(names, inputs, strict=True)})[0]


@torch.no_grad()
def test_the_networks_have_the_official_sizes(repository, networks):
    """e4e's `transforms_config.py` (192 x 256), and rows 64 to 448 of 512 in its `inference.py`."""
    shipped = json.loads((DOMAINS / "cars" / "domain.json").read_text())
    about = json.loads((repository / "mine" / "domain.json").read_text())
    assert shipped["crop_size"] == about["crop_size"] == [192, 256]
    encoder, generator, _ = networks
    (face,) = random_faces(2, (192, 256))
    expected = encoder(face).numpy()
    assert np.abs(run_onnx(repository, "e4e", face) - expected).max() < 1e-4
    w_plus, delta = latent_factory(generator)(1)
    styles = generator.flatten_styles(generator.affine(w_plus)) + delta
    image = (generator.synthesis(generator.split_styles(styles)).clamp(-1, 1) + 1) * 127.5
    drawn = run_onnx(repository, "stylegan2", w_plus, delta)
    assert drawn.shape == (1, 24, 32, 3)
    assert np.abs(drawn[0] - image[0, :, 4:28].permute(1, 2, 0).numpy()).max() <= 1


def test_photos_are_edited_in_the_shape_of_the_domain(repository, tmp_path):
    photo = encode_image(Image.linear_gradient("L").resize((100, 60)).convert("RGB"))
    options = Options(repository, "mine", log=tmp_path / "log", networks="cpu")
    with running_server(options) as server, Client(server.grpc_url) as client:
        face = client.invert(photo)
        assert face.quad[0].tolist() == [9.5, -0.5] and face.quad[2].tolist() == [89.5, 59.5]
        edit = client.domain().edit("a red car", threshold=0.0)
        assert client.edit(face.w_plus, edit).image().size == (32, 24)
        assert client.draw(face.w_plus).shape == (24, 32, 3)
        pasted = client.edit_photo(photo, edit, paste=True)
        assert pasted.image().size == (100, 60)


def test_pytorch_on_a_gpu_refuses_the_domain_and_is_not_chosen(repository, monkeypatch):
    with pytest.raises(ServerStartFailed, match=r"square images only.*--networks gpu"):
        preflight.check(Options(repository, "mine", networks="torch"))
    monkeypatch.setattr(installation.Path, "exists", lambda path: True)
    monkeypatch.setattr(installation, "find_spec", lambda name: True)
    monkeypatch.setattr(installation.importlib.metadata, "version", lambda name: "2.11+cu130")
    assert installation.fastest_engine(repository / "mine") == "gpu"
    assert installation.fastest_engine(default_repository() / "avatars") == "torch"
