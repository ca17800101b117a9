"""Training of the inverter and the feature editor, at tiny sizes, and what is packaged of it."""

import dataclasses
import json

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

from domains.people import package  # noqa: E402
from domains.people.models import load_generator  # noqa: E402
from domains.training import feature_editor  # noqa: E402
from domains.training.checkpoints import save_weights  # noqa: E402
from domains.training.feature_editor import FeatureData, train_editor, train_inverter  # noqa: E402
from domains.training.fidelity_quality import find_ghosts  # noqa: E402
from domains.training.networks import build_encoder  # noqa: E402
from domains.training.packaging import Trained, load_served_mapping, write_domain  # noqa: E402
from domains.training.served_weights import read_served_weights  # noqa: E402
from domains.training.setup import PROGRESS_FILE, Setup, read_progress  # noqa: E402
from small_networks import randomize, small_encoder, small_generator  # noqa: E402
from styleclip_export.convert.accuracy import MIN_PSNR, psnr  # noqa: E402
from styleclip_export.convert.conversion import write_mapping  # noqa: E402
from styleclip_export.convert.network_variants import stylegan2_variants  # noqa: E402
from styleclip_export.convert.onnx_export import store_as_float16, to_onnx  # noqa: E402
from styleclip_export.convert.random_inputs import latent_factory  # noqa: E402
from styleclip_server.engines.features import FeatureEditor  # noqa: E402
from styleclip_server.engines.model_files import (  # noqa: E402
    FACE_TO_FEATURES_FILE,
    OPENVINO_FEATURE_FILES,
    SHARED_WEIGHTS_FILE,
)
from styleclip_server.engines.onnxruntime import OnnxNetwork  # noqa: E402

DESCRIPTION = {
    "name": "tiny",
    "title": "tiny",
    "align": False,
    "defaults": {"neutral": "a face", "strength": 5.0, "threshold": 0.15},
    "presets": [],
    "license": "none",
    "default_fidelity": "features",
}


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Many small operations are slow where several threads wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_features(monkeypatch):
    """Photos of 64 px and features of 16 px, which a processor trains on at once."""
    monkeypatch.setattr(feature_editor, "RESOLUTION", 16)
    monkeypatch.setattr(feature_editor, "FACE_SIZE", 64)


@pytest.fixture
def data():
    """What a domain gives the training: always the same four photos."""
    torch.manual_seed(0)
    generator = small_generator(32, use_noise=False)
    encoder = randomize(small_encoder(generator.num_latents))
    photos = torch.nn.functional.interpolate(torch.rand(4, 3, 8, 8) * 2 - 1, size=(64, 64))
    offsets = 0.1 * torch.randn(4, sum(generator.style_channels))
    return FeatureData(
        generator,
        encoder,
        lambda count: photos[:count],
        torch.nn.functional.mse_loss,
        offsets,
        photos,
    )


def setup_in(folder, steps):
    seconds = {"inverter": 60.0, "features": 60.0}
    return Setup(folder, folder, torch.device("cpu"), 16, seconds, max_steps=steps, tiny=True)


@pytest.mark.usefixtures("small_features")
def test_both_stages_train_and_come_closer_to_their_targets(data, tmp_path):
    losses = []

    def distance(images, targets):
        losses.append(torch.nn.functional.mse_loss(images, targets))
        return losses[-1]

    data = dataclasses.replace(data, distance=distance)
    for train in (train_inverter, train_editor):
        losses.clear()
        train(setup_in(tmp_path, steps=12), data)
        assert losses[-1] < losses[0]
    assert read_progress(tmp_path / PROGRESS_FILE) == {"inverter": 60.0, "features": 60.0}
    assert (tmp_path / "features_edits.jpg").is_file()


@pytest.mark.usefixtures("small_features")
def test_untrained_an_edit_of_features_is_that_of_the_latent(data, tmp_path):
    generator, offsets = data.generator, data.offsets
    editor = feature_editor.build_editor(generator, tiny=True).eval()
    with torch.no_grad():
        w_plus = data.encoder(data.held_out)
        styles = generator.affine(w_plus)
        features = generator.features(styles, 16)
        setup = setup_in(tmp_path, steps=1)
        edited = feature_editor.edit(setup, data, editor, features, w_plus, offsets)
        by_latent = generator.synthesis(feature_editor.add_offsets(generator, styles, offsets))
    torch.testing.assert_close(edited, by_latent, atol=1e-4, rtol=1e-4)


def test_an_edited_region_covers_what_changed_and_a_margin():
    before = torch.zeros(1, 3, 128, 128)
    after = before.clone()
    after[..., 60:70, 60:70] = 1
    region = feature_editor.edited_region(before, after)
    assert (region[..., 60:70, 60:70] == 1).all()
    assert region[..., :30, :].max() == 0


@pytest.mark.parametrize("with_generator", [False, True])
def test_package_writes_features_that_share_the_generator(tmp_path, with_generator):
    runs = tmp_path / "runs"
    runs.mkdir()
    generator = small_generator(128, channel_base=1024, channel_max=16, use_noise=False)
    generator.half().float()  # as training saves it
    encoder = small_encoder(generator.num_latents)
    save_weights(encoder, runs / "encoder.pt")
    save_weights(feature_editor.build_inverter(generator, tiny=True), runs / "inverter.pt")
    save_weights(feature_editor.build_editor(generator, tiny=True), runs / "feature_editor.pt")
    networks = Trained(generator, encoder, runs, runs, tiny=True)
    w_plus, delta = latent_factory(generator)(1)
    stylegan2 = tmp_path / "tiny/stylegan2/1/model.onnx"
    if with_generator:
        variants = stylegan2_variants(generator)
        graph = to_onnx(variants.onnxruntime, variants.model, (w_plus, delta))
        store_as_float16(graph)
        stylegan2.parent.mkdir(parents=True)
        onnx.save(graph, stylegan2)
    write_domain(networks, DESCRIPTION, tmp_path, draw_faces=None)
    domain = json.loads((tmp_path / "tiny/domain.json").read_text("utf-8"))
    assert domain["fidelities"] == ["latent", "features"]
    assert domain["default_fidelity"] == "features"
    folder = tmp_path / "tiny/features/1"
    other = b"features_to_image.onnx" in (folder / FACE_TO_FEATURES_FILE).read_bytes()
    assert other != with_generator  # which file has the generator's layers
    assert (folder / SHARED_WEIGHTS_FILE).is_file() == with_generator
    inverter = feature_editor.build_inverter(generator, tiny=True)
    state = read_served_weights(folder / FACE_TO_FEATURES_FILE, "inverter.")
    inverter.load_state_dict(state)  # complete
    face = np.zeros((3, 256, 256), np.float32)
    arguments = w_plus[0].numpy(), delta[0].numpy(), b"key", lambda: face
    image = FeatureEditor(folder, 1, 1 << 20).edit(*arguments)
    assert image.shape == (128, 128, 3)
    for file in OPENVINO_FEATURE_FILES.values():
        assert len((folder / file).read_bytes()) < 400_000  # all large weights lie elsewhere
    in_openvino = FeatureEditor(folder, 1, 1 << 20, openvino=True).edit(*arguments)
    # The bound holds for the inputs that bfloat16 was measured on.
    assert psnr(in_openvino[None], image[None]) >= MIN_PSNR - 5
    if with_generator:  # untrained, an edit of features is that of the latent
        by_latent = OnnxNetwork(stylegan2, 1)
        inputs = {"W_PLUS": w_plus.numpy(), "DELTA": delta.numpy()}
        assert abs(by_latent(inputs)[0][0].astype(int) - image).max() <= 2
        stylegan2.write_bytes(stylegan2.read_bytes() + b"\0")
        for openvino in (False, True):
            with pytest.raises(ValueError, match="belongs to another"):
                FeatureEditor(folder, 1, 1 << 20, openvino=openvino)


@torch.no_grad()
def test_a_served_mapping_network_is_read_back(tmp_path):
    served, other = (small_generator(32).eval() for _ in range(2))
    write_mapping(tmp_path, served, torch.zeros(48))
    load_served_mapping(other, tmp_path)
    z = torch.randn(4, 48)
    torch.testing.assert_close(other.mapping(z), served.mapping(z))


def test_people_package_of_features_alone_leaves_the_other_networks(tmp_path):
    runs, repository = tmp_path / "runs", tmp_path / "repository"
    runs.mkdir()
    generator = load_generator(setup_in(runs, steps=1))
    save_weights(generator, runs / "generator.pt")
    save_weights(build_encoder(generator.num_latents), runs / "encoder.pt")
    save_weights(feature_editor.build_inverter(generator, tiny=True), runs / "inverter.pt")
    save_weights(feature_editor.build_editor(generator, tiny=True), runs / "feature_editor.pt")
    served = repository / "people/e4e/1/model.onnx"
    served.parent.mkdir(parents=True)
    served.write_bytes(b"served")
    arguments = ["--runs", runs, "--data", runs, "--repository", repository]
    result = CliRunner().invoke(
        package.main, [*map(str, arguments), "--only-features", "--tiny"], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    assert served.read_bytes() == b"served"
    assert {path.name for path in repository.glob("people/features/1/*.onnx")} == {
        *OPENVINO_FEATURE_FILES,
        *OPENVINO_FEATURE_FILES.values(),
    }


def test_a_ghost_is_what_remains_and_a_halo_what_changes_around_an_edit():
    photo, expected = torch.zeros(1, 3, 128, 128), torch.zeros(1, 3, 128, 128)
    expected[..., 40:80, 40:80] = 1
    region = feature_editor.edited_region(photo, expected)
    latents = photo, expected
    assert find_ghosts(photo, expected, latents, region) == (0, 0)
    ghost, halo = find_ghosts(photo, photo, latents, region)
    assert (ghost, halo) == (pytest.approx(1), 0)
    brighter = expected + 0.1 * (region < 0.5)
    ghost, halo = find_ghosts(photo, brighter, latents, region)
    assert ghost == pytest.approx(0, abs=1e-3)
    assert halo == pytest.approx(0.1 * 127.5, rel=1e-3)
