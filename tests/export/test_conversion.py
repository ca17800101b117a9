"""Small networks of official layout are converted, get statistics, are served and edit a photo.

The server's outputs must be what the PyTorch networks compute."""

import io
import json
import shutil
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import skimage
import torch
import tritonclient.grpc as triton
from PIL import Image
from tritonclient.utils import InferenceServerException

from checkpoint_files import e4e_checkpoint
from image_files import decode_pixels, encode_image
from interpreted_kernels import on_the_cpu
from servers import running_server
from small_networks import small_clip, small_encoder, small_generator
from styleclip_client import Client, Edit
from styleclip_contract import wire
from styleclip_export import cli
from styleclip_export.checkpoints.domain_files import DomainFiles, read_domain
from styleclip_export.convert import accuracy, conversion
from styleclip_export.convert.accuracy import psnr
from styleclip_server.engines.cpu import supports_bfloat16
from styleclip_server.pipeline import directions
from styleclip_server.pipeline.alignment import Aligner
from styleclip_server.pipeline.landmarks import LANDMARK_MODEL, find_landmark_model
from styleclip_server.pipeline.style_statistics import load_statistics
from styleclip_server.serving.domain_folder import load_domain
from styleclip_server.serving.options import Options, default_repository
from tools import triton_client

EDIT = Edit("a face", "a smiling face", strength=3.0, threshold=0.05)
TIMEOUT = 600  # seconds: interpreted kernels are slow


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        generator = small_generator(channel_base=256, channel_max=16, w_dim=512)
        encoder = small_encoder(8, 512, widths=(4, 6, 8, 12), depths=(1, 1, 1, 1))
        clip = small_clip(64, text_layers=2, image_resolution=32, vision_patch_size=16)
        average = torch.randn(8, 512) * 0.1
    checkpoint = e4e_checkpoint(encoder.state_dict(), generator.state_dict(), average, {})
    torch.save(checkpoint, folder / "e4e_ffhq_encode.pt")
    torch.save(clip.state_dict(), folder / "ViT-B-32.pt")
    return folder


@pytest.fixture(scope="module")
def repository(weights, tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "model_repository"
    shutil.copytree(default_repository() / "steps", folder / "steps")
    where = ["--weights", str(weights), "--repository", str(folder)]
    assert cli.run(["convert", "ffhq", *where, "--torchscript"]) == 0
    small = ["--samples", "200", "--images", "3", "--batch", "3", "--device", "cpu"]
    assert cli.run(["stats", "ffhq", *where, *small]) == 0
    return folder


@contextmanager
def serve(repository, engine, folder):
    options = Options(repository, "ffhq", log=folder / "log", networks=engine)
    with ExitStack() as stack:
        with on_the_cpu():
            server = stack.enter_context(running_server(options))
        yield SimpleNamespace(url=server.grpc_url, engine=engine)


@pytest.fixture(scope="module")
def served_by_onnx_runtime(repository, tmp_path_factory):
    with serve(repository, "cpu", tmp_path_factory.mktemp("cpu")) as server:
        yield server


@pytest.fixture(scope="module", params=["cpu", "torch", "openvino"])
def served(request, repository, tmp_path_factory):
    """A server and its engine; `torch` is what a GPU runs, here on the CPU: half precision,
    kernels interpreted."""
    if request.param == "cpu":
        yield request.getfixturevalue("served_by_onnx_runtime")
        return
    with serve(repository, request.param, tmp_path_factory.mktemp(request.param)) as server:
        yield server


def test_served_outputs_match_pytorch(weights, repository, served):
    engine, networks = served.engine, read_domain(DomainFiles.find(weights))
    photo = Image.fromarray(skimage.data.astronaut())
    file = encode_image(photo)
    with Client(served.url, timeout=TIMEOUT) as client:
        assert client.domain().name == "ffhq"
        edited = client.edit_photo(file, EDIT, format="PNG")
        inverted = client.invert(file)

    face, quad = Aligner().align(photo)
    assert np.array_equal(quad, inverted.quad)
    crop = torch.from_numpy(face).permute(2, 0, 1)[None].float() / 127.5 - 1
    domain = load_domain(repository / "ffhq")
    statistics = load_statistics(repository / "ffhq", domain.style_channels)
    with torch.no_grad():
        w_plus = networks.encoder.eval()(crop) + networks.w_avg
        off = np.abs(inverted.w_plus - w_plus[0].numpy()).max()
        assert off < (2e-4 if engine == "cpu" else 1e-2)

        def embedding(text):
            return directions.class_embeddings(
                [text], lambda tokens: networks.clip.encode_text(torch.from_numpy(tokens)).numpy()
            )[0]

        offset, counts = directions.style_offset(statistics, [EDIT], embedding)
        assert edited.channels == counts
        generator = networks.generator.eval()
        delta = generator.split_styles(torch.from_numpy(offset)[None])
        styles = [s + d for s, d in zip(generator.affine(w_plus), delta, strict=True)]
        image = generator.synthesis(styles).clamp(-1, 1)[0].permute(1, 2, 0)
    expected = ((image + 1) * 127.5).round().numpy()
    assert edited.image().size == (32, 32)
    off = np.abs(np.asarray(edited.image(), np.float32) - expected)
    assert off.max() <= (1 if engine == "cpu" else 8)
    assert psnr(np.asarray(edited.image(), np.float32)[None], expected[None]) > 45


@pytest.fixture(scope="module")
def w_plus():
    return np.random.default_rng(3).standard_normal((8, 512)).astype(np.float32)


def infer(url, model, tensors, outputs=None):
    """Call a model without the client library."""
    with triton.InferenceServerClient(url) as connection:
        return triton_client.infer(connection, model, tensors, outputs)


def build_edit_inputs(w_plus):
    """The inputs of `edit` for latents (N, L, W)."""
    texts = {"NEUTRAL": EDIT.neutral.encode(), "TARGET": EDIT.target.encode()}
    numbers = {"STRENGTH": EDIT.strength, "THRESHOLD": EDIT.threshold}
    rows = (len(w_plus), 1)
    return {
        "W_PLUS": w_plus,
        **{name: np.full(rows, value, np.object_) for name, value in texts.items()},
        **{name: np.full(rows, value, np.float32) for name, value in numbers.items()},
    }


def test_a_jpeg_has_the_requested_quality(served, w_plus):
    with Client(served.url, timeout=TIMEOUT) as client:
        lossless = np.asarray(client.edit(w_plus, EDIT, format="PNG").image(), np.float32)
        fine, coarse = (client.edit(w_plus, EDIT, quality=q).picture for q in (95, 50))
    assert lossless.std() > 10
    assert psnr(decode_pixels(fine)[None], lossless[None]) > 30
    assert len(coarse) < len(fine)
    for data in (fine, coarse):
        with Image.open(io.BytesIO(data)) as image:
            assert image.format == "JPEG"
            assert EDIT.target in image.info["xmp"].decode()


def test_every_other_format_has_the_same_image(served, w_plus):
    with Client(served.url, timeout=TIMEOUT) as client:
        png = client.edit(w_plus, EDIT, format="PNG").picture
        webp = client.edit(w_plus, EDIT, format="WEBP").picture
        drawn = client.draw(w_plus, EDIT)
    np.testing.assert_array_equal(decode_pixels(png), drawn)
    assert webp[8:12] == b"WEBP" and psnr(decode_pixels(webp)[None], drawn[None]) > 25


def test_an_edited_face_is_pasted_back_as_jpeg(served):
    photo = Image.fromarray(skimage.data.astronaut())
    with Client(served.url, timeout=TIMEOUT) as client:
        edited = client.edit_photo(photo, EDIT, paste=True).picture
    pasted, before = decode_pixels(edited), np.asarray(photo, np.float32)
    assert pasted.shape == before.shape
    assert psnr(pasted[None, :, :64], before[None, :, :64]) > 35  # beside the face


def test_rows_of_one_request_may_differ(served, w_plus):
    given = build_edit_inputs(np.stack([w_plus, -w_plus]))
    formats = {"FORMAT": [[b"jpeg"], [b"PNG"]]}
    jpeg, png = infer(served.url, wire.EDIT, given | formats)["PICTURE"][:, 0]
    default = infer(served.url, wire.EDIT, given)["PICTURE"][:, 0]
    assert jpeg == default[0] and default[1].startswith(b"\xff\xd8")
    assert psnr(decode_pixels(png)[None], decode_pixels(default[1])[None]) > 30


@pytest.mark.parametrize("wrong", [{"FORMAT": [[b"TIFF"]]}, {"QUALITY": [[0]]}])
def test_an_unknown_format_or_quality_raises_a_named_error(served, w_plus, wrong):
    with pytest.raises(InferenceServerException, match="UnknownFormat"):
        infer(served.url, wire.EDIT, build_edit_inputs(w_plus[None]) | wrong)


@pytest.mark.parametrize("outputs", [None, ["IMAGE"]])
def test_the_generator_alone_returns_pixels(served, w_plus, outputs):
    with Client(served.url, timeout=TIMEOUT) as client:
        drawn = client.draw(w_plus)
        styles = sum(client.domain().style_channels)
    given = {"W_PLUS": w_plus[None], "DELTA": np.zeros((1, styles), np.float32)}
    arrays = infer(served.url, wire.STYLEGAN2, given, outputs)
    np.testing.assert_array_equal(arrays["IMAGE"][0], drawn)
    if served.engine == "torch" and outputs is None:
        assert psnr(decode_pixels(arrays["RENDER"].tobytes())[None], drawn[None]) > 30
    else:
        assert set(arrays) == {"IMAGE"}


def test_triton_runs_the_file_that_the_config_names(repository, served_by_onnx_runtime, tmp_path):
    """The GPU's float16 networks, on the CPU."""
    photo = encode_image(Image.fromarray(skimage.data.astronaut()))
    outputs = []
    with serve(repository, "gpu", tmp_path) as half:
        for server in (served_by_onnx_runtime, half):
            with Client(server.url, timeout=TIMEOUT) as client:
                inverted = client.invert(photo)
                image = client.edit_photo(photo, EDIT, format="PNG").image()
            outputs.append((inverted.w_plus, np.asarray(image, np.float32)))
    (exact_w, exact), (half_w, rough) = outputs
    assert 0 < np.abs(exact_w - half_w).max() < 1e-3
    assert psnr(rough[None], exact[None]) > 45


def test_every_converted_file_records_its_sources_and_errors(weights, repository):
    for name in ("e4e", "clip_text", "stylegan2"):
        folder = repository / "ffhq" / name / "1"
        provenance = json.loads((folder / "provenance.json").read_text())
        assert set(provenance["sources"]) == {"e4e_ffhq_encode.pt", "ViT-B-32.pt"}
        assert {error["batch"] for error in provenance["errors"]} == {1, 2, 8}
        assert (folder / "model.pt").is_file() == (name != "clip_text")
        if name != "clip_text":
            openvino = provenance["openvino"]
            assert openvino["float32"]["largest"] <= accuracy.BOUNDS[name]
            assert bool(openvino["tried"]) == supports_bfloat16()
            assert (folder / "model.openvino.onnx").is_file()
        half = provenance["float16"]
        # StyleGAN2's float16 is computed on a CPU for two rows at most.
        batches = [1, 2] if name == "stylegan2" else [1, 2, 8]
        assert [error["batches"] for error in half["errors"]][-1] == batches
        assert (folder / "model.fp16.onnx").is_file()


def test_only_the_published_landmarks_are_installed(landmarks_bz2, tmp_path):
    lines, official = [], find_landmark_model()
    weights, folder = tmp_path / "weights", tmp_path / "ffhq"
    weights.mkdir()
    folder.mkdir()
    other = bytearray(official.read_bytes())
    other[-1] ^= 1
    (weights / LANDMARK_MODEL).write_bytes(other)
    conversion.install_landmarks(weights, folder, lines.append)
    assert not list(folder.iterdir()) and "skipped" in lines[-1]
    (weights / LANDMARK_MODEL).unlink()
    (weights / f"{LANDMARK_MODEL}.bz2.part").touch()  # a download broken off
    conversion.install_landmarks(weights, folder, lines.append)
    assert len(lines) == 1
    shutil.copy(landmarks_bz2, weights)
    conversion.install_landmarks(weights, folder, lines.append)
    assert (folder / LANDMARK_MODEL).read_bytes() == official.read_bytes()
    assert len(list(folder.iterdir())) == 1


def test_converting_again_adds_a_version_and_keeps_the_old_one(weights, repository, tmp_path):
    copy = tmp_path / "model_repository"
    shutil.copytree(repository, copy)
    where = ["--weights", str(weights), "--repository", str(copy)]
    assert cli.run(["convert", "ffhq", *where, "--only", "clip_text"]) == 0
    assert sorted(p.name for p in (copy / "ffhq/clip_text").glob("[0-9]*")) == ["1", "2"]
    assert sorted(p.name for p in (copy / "ffhq/e4e").glob("[0-9]*")) == ["1"]


def test_a_conversion_that_misses_its_bound_is_not_written(
    weights, repository, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(accuracy.BOUNDS, "e4e", 1e-12)
    target = tmp_path / "model_repository"
    where = ["--weights", str(weights), "--repository", str(target)]
    assert cli.run(["convert", "ffhq", *where, "--only", "e4e"]) == 1
    assert "ConversionError: e4e" in capsys.readouterr().err
    assert not list(Path(target).rglob("model.onnx"))


def test_missing_weights_print_one_line(tmp_path, capsys):
    assert cli.run(["convert", "ffhq", "--weights", str(tmp_path)]) == 1
    complaint = capsys.readouterr().err
    assert "CheckpointError" in complaint and "fetch" in complaint and complaint.count("\n") == 1
