"""A generator without an encoder becomes a domain that edits latents and random seeds."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from image_files import encode_image
from servers import running_server
from small_networks import small_clip, small_generator
from styleclip_client import Client, errors
from styleclip_client.cli import run as run_client
from styleclip_client.results import Inverted
from styleclip_export import cli
from styleclip_export.convert.conversion import write_mapping
from styleclip_server.pipeline.random_latents import load_mapping
from styleclip_server.serving.options import Options, default_repository
from tools.parity.nvidia_pickles import ada


@pytest.fixture(scope="module")
def generator():
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return small_generator(channel_base=256, channel_max=16, w_dim=512, mapping_layers=3).eval()


@pytest.fixture(scope="module")
def w_avg():
    return torch.linspace(-0.3, 0.3, 512)


@pytest.fixture(scope="module")
def repository(generator, w_avg, tmp_path_factory):
    """The domain `mine`, from one of NVIDIA's pickles alone."""
    folder = tmp_path_factory.mktemp("mine")
    clip = small_clip(64, text_layers=2, image_resolution=32, vision_patch_size=16)
    (folder / "mine.pkl").write_bytes(ada(generator.state_dict(), w_avg))
    torch.save(clip.state_dict(), folder / "clip.pt")
    repository = folder / "model_repository"
    repository.mkdir()
    (repository / "steps").symlink_to(default_repository() / "steps")
    files = ["--generator", str(folder / "mine.pkl"), "--clip", str(folder / "clip.pt")]
    where = ["--weights", str(folder / "none"), "--repository", str(repository)]
    words = ["--title", "my images", "--neutral", "an image"]
    assert cli.run(["convert", "mine", *files, *where, *words]) == 0
    small = ["--samples", "200", "--images", "2", "--device", "cpu", "--work", str(folder / "work")]
    assert cli.run(["stats", "mine", *files, *where, *small]) == 0
    return repository


@pytest.fixture(scope="module", params=["cpu", "openvino"])
def url(request, repository, tmp_path_factory):
    log = tmp_path_factory.mktemp("log") / "log"
    options = Options(repository, "mine", log=log, networks=request.param)
    with running_server(options) as server:
        yield server.grpc_url


@torch.no_grad()
def expected_latent(generator, w_avg, seed, psi):
    z = torch.from_numpy(np.random.RandomState(seed).randn(1, 512)).float()
    w = w_avg + psi * (generator.mapping(z) - w_avg)
    return w.expand(generator.num_latents, -1).numpy()


def test_the_domain_says_that_it_edits_no_photos(repository):
    about = json.loads((repository / "mine" / "domain.json").read_text())
    assert about["photos"] is False and about["title"] == "my images"
    assert about["defaults"]["neutral"] == "an image"


@pytest.mark.parametrize(("seed", "psi"), [(0, 0.7), (4294967295, 1.0), (7, 0.0)])
def test_a_seed_gives_the_latent_of_the_mapping_network(repository, generator, w_avg, seed, psi):
    w_plus = load_mapping(repository / "mine").sample(seed, psi, generator.num_latents)
    np.testing.assert_allclose(w_plus, expected_latent(generator, w_avg, seed, psi), atol=2e-5)


def test_a_mapping_network_may_be_stored_in_float16(tmp_path, generator, w_avg):
    write_mapping(tmp_path, generator, w_avg, float16=True)
    w_plus = load_mapping(tmp_path).sample(1, 1.0, generator.num_latents)
    assert w_plus.dtype == np.float32
    np.testing.assert_allclose(
        w_plus, expected_latent(generator, w_avg, 1, 1.0), rtol=0.02, atol=0.01
    )


def test_seeds_are_drawn_and_edited_on_the_server(url, generator, w_avg):
    with Client(url) as client:
        w_plus = client.sample(3)
        np.testing.assert_allclose(w_plus, expected_latent(generator, w_avg, 3, 0.7), atol=2e-5)
        domain = client.domain()
        edited = client.edit(w_plus, domain.edit("a red image", threshold=0.0), format="PNG")
        assert edited.image().size == (32, 32) and edited.channels[0] > 0
        assert not domain.photos and client.status().ready
        assert not np.array_equal(edited.array(), client.draw(w_plus))


def test_a_photo_is_refused_by_its_reason(url):
    photo = encode_image(Image.linear_gradient("L").convert("RGB"))
    with Client(url) as client:
        edit = client.domain().edit("a red image")
        for call in (
            lambda: client.edit_photo(photo, edit, align=False),
            lambda: client.invert(photo, align=False),
        ):
            with pytest.raises(errors.NoEncoder, match=r"no encoder.*styleclip sample"):
                call()


@pytest.mark.parametrize("wrong", [{"seed": -1}, {"seed": 2**32}, {"seed": 1, "truncation": 2.0}])
def test_an_invalid_seed_raises_a_named_error(url, wrong):
    with Client(url) as client, pytest.raises(errors.InvalidSeed):
        client.sample(**wrong)


def test_the_command_writes_images_and_latents(url, tmp_path, capsys):
    def run(*arguments):
        return run_client(["sample", *map(str, arguments), "--server", url])

    assert run("--seed", 1, "--seed", 2, "-o", tmp_path / "a.png") == 0
    assert {path.name for path in tmp_path.iterdir()} == {"a-1.png", "a-2.png"}
    assert Image.open(tmp_path / "a-1.png").size == (32, 32)
    assert run("--seed", 1, "-o", tmp_path / "one.npz") == 0
    assert Inverted.load(tmp_path / "one.npz").w_plus.shape == (8, 512)
    edit = ["--target", "a red image", "--threshold", "0"]
    assert run("--seed", 1, *edit, "-o", tmp_path / "b.jpg") == 0
    again = ["edit", str(tmp_path / "one.npz"), *edit, "-o", str(tmp_path / "c.jpg")]
    assert run_client([*again, "--server", url]) == 0
    assert (tmp_path / "b.jpg").read_bytes()[-1000:] == (tmp_path / "c.jpg").read_bytes()[-1000:]
    assert run("--seed", 1, "-o", tmp_path / "b.jpg") != 0
    assert run("--seed", 1, *edit, "-o", tmp_path / "d.npz") != 0
    assert "--overwrite" in capsys.readouterr().err


def test_a_domain_without_a_mapping_network_says_so(tmp_path):
    with pytest.raises(errors.SamplingUnavailable, match="convert it again"):
        load_mapping(tmp_path).sample(0, 0.7, 8)
