"""A domain with StyleFeatureEditor's networks serves FIDELITY `features`."""

import dataclasses
import json
import re
import shutil
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import onnx
import pytest
import torch
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from checkpoint_files import e4e_checkpoint
from counters import read_metrics
from image_files import claim_png_size, decode_pixels, encode_image
from interpreted_kernels import on_the_cpu
from polling import SECONDS
from servers import running_server
from small_networks import randomize, small_clip, small_encoder, small_generator, small_inverter
from styleclip_client import Client, Edit, Inverted, sweeps
from styleclip_client.cli import run as run_command
from styleclip_contract import errors, limits, wire
from styleclip_contract.domain import Domain
from styleclip_export import cli
from styleclip_export.convert import feature_openvino_export
from styleclip_export.convert.accuracy import MIN_PSNR, psnr
from styleclip_export.convert.network_variants import (
    clip_text_variants,
    e4e_variants,
    stylegan2_variants,
)
from styleclip_export.convert.onnx_export import TRACED_BATCH, to_onnx
from styleclip_export.convert.wrappers import to_pixels
from styleclip_export.npz_files import save_npz
from styleclip_networks.sfe import FeatureFuser, edit_features
from styleclip_server.engines.feature_cache import FeatureCache
from styleclip_server.engines.features import FeatureEditor, Features
from styleclip_server.engines.model_files import (
    FEATURES_TO_IMAGE_FILE,
    MODEL_FILE,
    OPENVINO_FEATURE_FILES,
)
from styleclip_server.engines.onnxruntime import OnnxNetwork
from styleclip_server.engines.openvino import OpenvinoNetwork, PrecisionPart
from styleclip_server.pipeline.alignment import to_face_crop
from styleclip_server.pipeline.fidelities import decode_crop, encode_crop
from styleclip_server.serving import model_repository
from styleclip_server.serving.options import Options, default_repository

LATENTS, CHANNELS = 12, 16  # of the generator of 128 px, whose features of 64 px are replaced
PHOTO = encode_image(Image.effect_noise((256, 256), 80).convert("RGB"))
TEXTS = {
    "NEUTRAL": [b"an image"],
    "TARGET": [b"a red image"],
    "STRENGTH": [2.0],
    "THRESHOLD": [0.0],
    "FORMAT": [b"PNG"],
}
EDIT = Edit("an image", "a red image", 2.0, 0.0)  # the same
FEATURES = {"FIDELITY": [b"features"]}


@pytest.fixture(scope="module")
def networks():
    """Generator, inverter and feature editor."""
    with torch.random.fork_rng():
        torch.manual_seed(6)
        generator = small_generator(128, channel_base=1024, channel_max=CHANNELS, w_dim=512).eval()
        inverter = randomize(small_inverter(LATENTS, CHANNELS, w_dim=512))
        return generator, inverter, randomize(FeatureFuser(CHANNELS, units=1))


@pytest.fixture(scope="module")
def repository(networks, tmp_path_factory):
    """The domain `mine`."""
    generator, inverter, editor = networks
    folder = tmp_path_factory.mktemp("mine")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        encoder = small_encoder(LATENTS, 512, widths=(4, 6, 8, 12)).eval()
        clip = small_clip(64, image_resolution=32, vision_patch_size=16).eval()
    states = encoder.state_dict(), generator.state_dict()
    options = {"encoder_type": "Encoder4Editing"}
    torch.save(e4e_checkpoint(*states, torch.zeros(LATENTS, 512), options), folder / "e4e_mine.pt")
    torch.save(clip.state_dict(), folder / "ViT-small.pt")
    state = {f"inverter.{name}": tensor for name, tensor in inverter.state_dict().items()}
    state |= {f"encoder.{name}": tensor for name, tensor in editor.state_dict().items()}
    torch.save({"state_dict": state}, folder / "sfe_editor_mine.pt")
    where = ["--weights", str(folder), "--repository", str(folder / "models")]
    assert cli.run(["convert", "mine", "--only", "features", *where]) == 0
    for network in (  # as `convert` writes them, without its comparisons
        stylegan2_variants(generator),
        e4e_variants(encoder, generator),
        clip_text_variants(clip),
    ):
        inputs = network.draw_inputs(TRACED_BATCH)
        graph = to_onnx(network.onnxruntime, network.model, inputs).SerializeToString()
        model_repository.add_version(folder / "models/mine" / network.name, {MODEL_FILE: graph})
    (folder / "models" / "steps").symlink_to(default_repository() / "steps")
    size = sum(generator.style_channels)
    fs3 = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    arrays = {
        "style_mean": np.zeros(size, np.float32),
        "style_std": np.full(size, 0.3, np.float32),
        "fs3": fs3 / np.linalg.norm(fs3, axis=1)[:, None],
    }
    save_npz(folder / "models" / "mine" / "statistics.npz", arrays)
    return folder / "models"


@pytest.fixture(scope="module")
def infer(repository, tmp_path_factory):
    """A function that runs a model of the served domain on one batch."""
    log = tmp_path_factory.mktemp("log") / "log"
    options = Options(repository, "mine", log=log, networks="cpu")
    with (
        running_server(options) as server,
        triton.InferenceServerClient(server.grpc_url) as connection,
    ):

        def call(name, batch=1, **values):
            model = wire.FEATURE_MODELS.get(name) or wire.MODELS[name]
            inputs = []
            for tensor in model.inputs:
                if tensor.name in values:
                    rows = values[tensor.name] if batch > 1 else [values[tensor.name]]
                    array = np.array(rows, triton_to_np_dtype(tensor.datatype))
                    inputs.append(
                        triton.InferInput(tensor.name, list(array.shape), tensor.datatype)
                    )
                    inputs[-1].set_data_from_numpy(array)
            response = connection.infer(name, inputs)
            return {tensor.name: response.as_numpy(tensor.name) for tensor in model.outputs}

        call.server = server
        call.config = connection.get_model_config("stylegan2", as_json=True)["config"]
        yield call


@pytest.fixture(scope="module")
def face(infer):
    """What `invert` gives of the photo, as inputs of `edit`."""
    inverted = infer("invert", PHOTO=[PHOTO])
    return {"W_PLUS": inverted["W_PLUS"][0], "CROP": inverted["CROP"][0]}


@pytest.fixture(scope="module")
def client(infer):
    with Client(infer.server.grpc_url, timeout=60) as client:
        yield client


def pixels(response):
    return decode_pixels(response["PICTURE"][0][0])


def delta(infer):
    edit = {name: value for name, value in TEXTS.items() if name != "FORMAT"}
    return infer("direction", **edit)["DELTA"]


def refuse(infer, name, error, **values):
    """Check that a request is refused by a named error, and return its message."""
    with pytest.raises(InferenceServerException, match=f"{error.__name__}: ") as raised:
        infer(name, **values)
    assert raised.value.status() == "StatusCode.INVALID_ARGUMENT"
    return raised.value.message()


def test_clients_read_which_fidelities_are_served(repository, infer):
    served = Domain.from_json(infer.config["parameters"]["domain"]["string_value"])
    assert served.fidelities == ("latent", "features") and served.default_fidelity == "latent"
    about = json.loads((repository / "mine" / "domain.json").read_text())
    assert Domain.from_json(json.dumps({**about, "fidelities": ["latent"]})).fidelities == (
        "latent",
    )


def test_the_crop_is_the_face_that_the_encoder_sees(infer, face):
    crop = decode_crop(face["CROP"][0], (256, 256))
    assert np.array_equal(to_face_crop(crop), infer("align", PHOTO=[PHOTO])["FACE_CROP"][0])


@torch.inference_mode()
def edit_by_reference(networks, w_plus, crop, delta):
    """The image (1, H, W, 3) uint8 of the networks in PyTorch, for one row of each input."""
    generator, inverter, editor = networks
    face = to_face_crop(decode_crop(crop, (256, 256)))
    w_own, features = inverter(torch.tensor(face)[None], generator, torch.zeros(512))
    offsets = generator.split_styles(torch.tensor(delta))
    e4e_styles = generator.affine(torch.tensor(w_plus)[None])
    edited, e4e_edited = ([style + offset for style, offset in zip(styles, offsets, strict=True)]
                          for styles in (generator.affine(w_own), e4e_styles))  # fmt: skip
    changed = edit_features(editor, generator, features, e4e_styles, e4e_edited)
    return to_pixels(generator.synthesis(edited, features=changed)).numpy()


def test_an_edit_of_features_is_that_of_the_reference(infer, face, networks):
    expected = edit_by_reference(networks, face["W_PLUS"], face["CROP"][0], delta(infer))
    first = infer("edit", **face, **TEXTS, **FEATURES)  # a miss of the cache
    assert psnr(pixels(first)[None], expected) >= MIN_PSNR
    again = infer("edit", **face, **TEXTS, **FEATURES)
    assert again["PICTURE"][0][0] == first["PICTURE"][0][0]
    photo = infer("edit_photo", PHOTO=[PHOTO], **TEXTS, **FEATURES)
    assert np.array_equal(pixels(photo), pixels(first))


def test_an_edit_of_the_latent_is_that_of_the_generator_alone(infer, face, repository):
    network = OnnxNetwork(repository / "mine" / "stylegan2" / "1" / "model.onnx")
    (expected,) = network({"W_PLUS": face["W_PLUS"][None], "DELTA": delta(infer)})
    latent = {"W_PLUS": face["W_PLUS"]}
    for change in ({}, {"FIDELITY": [b"latent"]}, {"FIDELITY": [b"latent"], "CROP": [b"ignored"]}):
        assert np.array_equal(pixels(infer("edit", **latent, **TEXTS, **change)), expected[0])
    assert np.array_equal(pixels(infer("edit_photo", PHOTO=[PHOTO], **TEXTS)), expected[0])
    assert not np.array_equal(pixels(infer("edit", **face, **TEXTS, **FEATURES)), expected[0])


def test_requests_for_the_same_new_features_compute_them_once(infer, client):
    def misses():
        name = 'styleclip_cache_requests_total{cache="features",result="miss"}'
        return read_metrics(infer.server).get(name, 0)

    before = misses()
    inverted = client.invert(PHOTO, fidelity="features")
    new = dataclasses.replace(inverted, w_plus=inverted.w_plus + 1)
    with ThreadPoolExecutor(2) as pool:  # the client sends a call again that finds the server busy
        calls = [pool.submit(client.edit, new, EDIT, fidelity="features") for _ in range(2)]
        first, second = (call.result().picture for call in calls)
    assert first == second and misses() == before + 1


def test_a_batch_has_one_fidelity(infer, face):
    batch = {name: [value, value] for name, value in (TEXTS | face).items()}
    both = infer("edit", batch=2, **batch, FIDELITY=[[b"features"]] * 2)
    one = infer("edit", **face, **TEXTS, **FEATURES)
    assert both["PICTURE"][0][0] == both["PICTURE"][1][0] == one["PICTURE"][0][0]
    mixed = {**batch, "FIDELITY": [[b"features"], [b"latent"]]}
    refuse(infer, "edit", errors.UnknownFidelity, batch=2, **mixed)


def test_a_crop_that_is_missing_or_wrong_is_refused_by_its_name(infer, face):
    crop = face["CROP"][0]
    small = encode_crop(np.zeros((128, 128, 3), np.uint8))
    for wrong, reason in (
        (b"", "PNG"),
        (crop[: len(crop) // 2], "PNG"),
        (encode_image(Image.new("RGB", (256, 256)), "JPEG"), "PNG"),
        (small, "128 x 128"),
        (claim_png_size(small, 40_000, 40_000), "PNG|40000 x 40000"),
        (crop + bytes(limits.CROP_BYTES), "at most"),
    ):
        values = {**TEXTS, **FEATURES, "W_PLUS": face["W_PLUS"], "CROP": [wrong]}
        for _ in range(2):  # an error is not cached
            message = refuse(infer, "edit", errors.InvalidCrop, **values)
            assert "CROP of `invert`" in message
        assert any(part in message for part in reason.split("|"))
    message = refuse(infer, "edit", errors.InvalidCrop, **TEXTS, **FEATURES, W_PLUS=face["W_PLUS"])
    assert "CROP is missing" in message
    unknown = {"FIDELITY": [b"pixels"]}
    refuse(infer, "edit", errors.UnknownFidelity, **face, **TEXTS, **unknown)


def test_onnxruntime_on_a_gpu_serves_the_domain_by_its_latent(repository, tmp_path):
    model_repository.link_models(tmp_path, repository / "steps", repository / "mine", "gpu")
    assert {path.name for path in tmp_path.iterdir()} == set(wire.MODELS)
    assert "fidelities" not in (tmp_path / "stylegan2" / "config.pbtxt").read_text()


def test_pytorch_says_why_it_serves_a_domain_by_its_latent(repository, tmp_path, caplog):
    domain = tmp_path / "mine"
    shutil.copytree(repository / "mine", domain)

    def is_served(folder):
        model_repository.link_models(folder, repository / "steps", domain, "torch")
        assert {path.name for path in folder.iterdir()} == set(wire.MODELS)
        return "fidelities" in (folder / "stylegan2" / "config.pbtxt").read_text()

    assert is_served(tmp_path / "1") and not caplog.text
    path = domain / "stylegan2" / "1" / MODEL_FILE
    graph = onnx.load(path)
    (bias,) = [t for t in graph.graph.initializer if t.name == "generator.conv1.activate.bias"]
    bias.raw_data = np.ones(CHANNELS, np.float32).tobytes()
    path.write_bytes(graph.SerializeToString())
    assert not is_served(tmp_path / "2")
    assert "belongs to another generator: its generator.conv1.activate.bias differs" in caplog.text
    (domain / "features" / "1" / FEATURES_TO_IMAGE_FILE).write_bytes(b"no graph")
    assert not is_served(tmp_path / "3")


@pytest.fixture(scope="module")
def torch_server(repository, tmp_path_factory):
    """What a GPU runs, here on the CPU: half precision, and formulas in place of kernels."""
    log = tmp_path_factory.mktemp("torch") / "log"
    options = Options(repository, "mine", log=log, networks="torch")
    with on_the_cpu(formulas=True), running_server(options) as server:
        yield server


def test_pytorch_edits_features_in_the_process_of_stylegan2(torch_server, networks, infer):
    with Client(torch_server.grpc_url, timeout=SECONDS) as client:
        assert client.domain().fidelities == ("latent", "features")
        inverted = client.invert(PHOTO, fidelity="features")
        png = {"format": "PNG", "fidelity": "features"}
        first = client.edit(inverted, EDIT, **png)
        expected = edit_by_reference(networks, inverted.w_plus, inverted.crop, delta(infer))
        assert psnr(first.array()[None], expected) >= MIN_PSNR
        assert client.edit(inverted, EDIT, **png) == first  # a hit gives the bytes of a miss
        assert client.edit_photo(PHOTO, EDIT, **png) == first
        jpeg = client.edit(inverted, EDIT, fidelity="features")
        assert jpeg.picture.startswith(b"\xff\xd8") and jpeg.array().shape == first.array().shape
        assert client.edit(inverted, EDIT, format="PNG") != first
        with pytest.raises(errors.InvalidCrop, match="PNG"):
            client.edit(dataclasses.replace(inverted, crop=b"none"), EDIT, **png)
    metrics = read_metrics(torch_server)
    name = 'styleclip_cache_requests_total{{cache="features",result="{}"}}'
    assert (metrics[name.format("miss")], metrics[name.format("hit")]) == (3, 2)


def test_openvino_edits_features_too(repository, networks, tmp_path):
    generator, _, _ = networks
    folder = repository / "mine" / "features" / "1"
    rng = np.random.default_rng(0)
    face = rng.uniform(-1, 1, (3, 256, 256)).astype(np.float32)
    w_plus = rng.standard_normal((LATENTS, 512)).astype(np.float32)
    offset = rng.normal(0, 0.1, sum(generator.style_channels)).astype(np.float32)
    images = [
        FeatureEditor(folder, 1, 1 << 20, openvino=openvino).edit(
            w_plus, offset, b"key", lambda: face
        )
        for openvino in (False, True)
    ]
    assert psnr(images[1][None], images[0][None]) >= MIN_PSNR
    second = folder / "features_to_image.openvino.onnx"
    inputs = {
        "W_PLUS": w_plus[None],
        "DELTA": offset[None],
        "LATENT": w_plus[None] + 0.1,
        "FEATURES": rng.standard_normal((1, CHANNELS, 64, 64)).astype(np.float32),
    }
    expected = OnnxNetwork(folder / "features_to_image.onnx")(inputs)[0].astype(int)
    graph = onnx.load(second, load_external_data=False)
    for where, plan in feature_openvino_export.bfloat16_plans(graph, generator).items():
        exact = [PrecisionPart("f32", part.end_tensors) for part in plan]
        assert abs(OpenvinoNetwork(second, plan=exact)(inputs)[0] - expected).max() <= 1, where
    networks_of = {}
    for engine in ("cpu", "openvino"):
        models = tmp_path / engine
        model_repository.link_models(models, repository / "steps", repository / "mine", engine)
        config = (models / "features" / "config.pbtxt").read_text()
        networks_of[engine] = re.findall(r'string_value: "(\w+)"', config)
        assert {path.name for path in (models / "features" / "1").iterdir()} >= {
            *OPENVINO_FEATURE_FILES,
            *OPENVINO_FEATURE_FILES.values(),
        }
    assert networks_of == {"cpu": ["cpu"], "openvino": ["openvino"]}


def test_the_client_edits_an_inverted_face_with_both_fidelities(client, face):
    inverted = client.invert(PHOTO, fidelity="features")
    assert inverted.crop == face["CROP"][0]
    assert client.invert(PHOTO).crop is None  # the default of this domain is latent
    with_features = {"format": "PNG", "fidelity": "features"}
    edited = client.edit(inverted, EDIT, **with_features)
    assert client.edit_photo(PHOTO, EDIT, **with_features) == edited
    latent = client.edit(inverted, EDIT, format="PNG")
    assert latent == client.edit(inverted.w_plus, EDIT, format="PNG")
    assert latent == client.edit_photo(PHOTO, EDIT, format="PNG") != edited
    assert np.array_equal(client.draw(inverted, EDIT, fidelity="features"), edited.array())
    assert np.array_equal(client.draw(inverted, EDIT), latent.array())
    pasted = client.paste(PHOTO, inverted, EDIT, **with_features)
    assert pasted == client.edit_photo(PHOTO, EDIT, paste=True, **with_features)
    assert pasted != client.paste(PHOTO, inverted, EDIT, format="PNG")
    values = [(EDIT.strength, EDIT.threshold)]
    (image,) = sweeps.draw(client, inverted, [EDIT], values, fidelity="features")
    assert np.array_equal(np.asarray(image), edited.array())
    with pytest.raises(errors.InvalidCrop, match="invert the photo"):
        client.edit(inverted.w_plus, EDIT, fidelity="features")


def test_a_latent_file_carries_the_crop_through_web_api_and_commands(infer, client, tmp_path):
    photo, latent, out = (tmp_path / name for name in ("me.png", "me.npz", "out.png"))
    photo.write_bytes(PHOTO)
    expected = client.edit_photo(PHOTO, EDIT, format="PNG", fidelity="features").picture
    fields = {"neutral": EDIT.neutral, "target": EDIT.target, "strength": 2, "threshold": 0}
    fields |= {"format": "png", "fidelity": "features"}
    with httpx.Client(
        base_url=f"http://{infer.server.http_url}", timeout=60, trust_env=False
    ) as api:
        assert api.get("/v1/domain").json()["fidelities"] == ["latent", "features"]
        files = [("photo", ("me.png", PHOTO))]
        assert api.post("/v1/edit", files=files, data=fields).content == expected
        inverted = api.post("/v1/invert", files=files, data={"fidelity": "features"}).content
        files = [("latent", ("me.npz", inverted))]
        assert api.post("/v1/edit", files=files, data=fields).content == expected
        files.append(("photo", ("me.png", PHOTO)))
        pasted = api.post("/v1/edit", files=files, data=fields | {"paste": "true"}).content
    with_features = {"format": "PNG", "fidelity": "features"}
    face = Inverted.from_bytes(inverted)
    assert pasted == client.paste(PHOTO, face, EDIT, **with_features).picture
    where = ["--fidelity", "features", "--server", client.url]
    assert run_command(["invert", str(photo), "-o", str(latent), *where]) == 0
    assert latent.read_bytes() == inverted == Inverted.load(latent).to_bytes()
    texts = ["--neutral", EDIT.neutral, "--target", EDIT.target, "--strength", "2"]
    edit = ["edit", str(latent), *texts, "--threshold", "0", "-o", str(out), *where]
    assert run_command(edit) == 0
    assert out.read_bytes() == expected
    photos = tmp_path / "photos"
    photos.mkdir()
    photo.rename(photos / "me.png")
    texts += ["--threshold", "0", "--face", "all", "-o", str(tmp_path / "out")]
    assert run_command(["batch", str(photos), *texts, "--paste", *where]) == 0
    assert (tmp_path / "out" / "me.png").read_bytes() == pasted


def test_the_cache_evicts_the_least_recently_used_and_caches_no_error():
    def compute(*, fails=False):
        assert not fails
        return Features(np.zeros((1, 2, 4), np.float32), np.zeros((1, 1, 4, 4), np.float16))

    size = compute().nbytes
    cache = FeatureCache(2 * size + 1)
    first = cache.get(b"1", compute)
    cache.get(b"2", compute)
    assert cache.get(b"1", compute) is first
    cache.get(b"3", compute)  # evicts 2
    assert cache.get(b"1", compute) is first and cache.cache_info() == (2, 3, 2 * size)
    with pytest.raises(AssertionError):
        cache.get(b"2", lambda: compute(fails=True))
    cache.get(b"2", compute)
    assert cache.cache_info() == (2, 5, 2 * size)
    nothing = FeatureCache(0)
    nothing.get(b"1", compute)
    assert nothing.cache_info() == (0, 1, 0)
