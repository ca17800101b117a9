"""The GPU feature editor against the reference networks, the shipped ones in ONNX Runtime, and the
official numbers. Triton interprets the generator's kernels on the CPU."""

import re

import numpy as np
import pytest
import torch

import e4e_formulas
import stylegan2_formulas
from gpu_networks import relative_error, to_weights
from paths import ROOT
from small_networks import randomize, small_generator, small_inverter
from styleclip_export.convert.accuracy import MIN_PSNR, psnr
from styleclip_export.convert.feature_wrappers import FaceToFeatures, FeaturesToImage
from styleclip_export.verify import features as official
from styleclip_export.verify.folder import Folder
from styleclip_networks.sfe import FeatureFuser, Inverter
from styleclip_server.engines.cuda.cuda_graphs import Graphed
from styleclip_server.engines.cuda.feature_editor import CudaFeatureEditor, Features
from styleclip_server.engines.cuda.stylegan2 import CudaGenerator
from styleclip_server.engines.feature_weights import check_feature_weights, read_feature_weights
from styleclip_server.engines.features import FeatureEditor
from styleclip_server.engines.model_files import (
    FEATURES_TO_IMAGE_FILE,
    MODEL_FILE,
    SHARED_WEIGHTS_FILE,
)
from styleclip_server.engines.weights import read_parameters
from tools.bench.feature_networks import build_published, read_shipped

SIDE, CHANNELS = 8, 24  # of the features
PEOPLE = ROOT / "model_repository" / "people"


@pytest.fixture
def formulas(monkeypatch):
    """Formulas run, not the kernels: complete networks are slow in the interpreter."""
    for each in (e4e_formulas, stylegan2_formulas):
        each.replace_kernels(monkeypatch)


def build_references(own_latent):
    """Generator, and the two graphs of a domain whose inverter predicts latents or not."""
    generator = randomize(small_generator(32, channel_base=2048, channel_max=CHANNELS))
    inverter = (
        small_inverter(generator.num_latents, CHANNELS)
        if own_latent
        else Inverter(0, (8, 12, 16), (1, 2, 1), CHANNELS, 2)
    )
    editor = randomize(FeatureFuser(CHANNELS, units=2))
    w_avg = torch.randn(generator.num_latents, generator.w_dim)
    first = FaceToFeatures(randomize(inverter), editor, generator, w_avg)
    return generator, first, FeaturesToImage(editor, generator, own_latent=own_latent)


@pytest.fixture(scope="module", params=[True, False], ids=["own latent", "latent of e4e"])
def case(request):
    """Generator, parameters of the feature editor, inputs, and what the references compute."""
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(4)
        generator, first, second = build_references(request.param)
        face = torch.rand(2, 3, 4 * SIDE, 4 * SIDE) * 2 - 1
        w_plus = torch.randn(2, generator.num_latents, generator.w_dim)
        delta = 0.3 * torch.randn(2, sum(generator.style_channels))
        kept = first(face, w_plus)
        expected = second(w_plus, delta, *kept)
    inputs = face, w_plus, delta
    return generator, to_weights(first), inputs, kept, expected


def build_editor(generator, weights, dtype=torch.float32, device="cpu"):
    generator = CudaGenerator(to_weights(generator), device, dtype)
    return CudaFeatureEditor(weights, generator)


@torch.inference_mode()
def test_features_and_image_match_the_reference(case, formulas):
    generator, weights, (face, w_plus, delta), kept, expected = case
    editor = build_editor(generator, weights)
    latent, features = editor.invert(face, w_plus)
    assert features.dtype == torch.float16
    torch.testing.assert_close(latent, kept[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features.permute(0, 3, 1, 2).float(), kept[1], rtol=1e-3, atol=1e-3)
    image = editor.edit(w_plus, delta, latent, features)
    assert image.dtype == torch.uint8 and image.shape == expected.shape
    difference = (image.int() - expected.int()).abs()
    assert difference.max() <= 2 and difference.float().mean() < 0.05


@torch.inference_mode()
def test_the_kernels_compute_the_same(case):
    generator, weights, (face, w_plus, _), kept, _ = case
    _, features = build_editor(generator, weights).invert(face[:1], w_plus[:1])
    expected = kept[1][:1]
    assert relative_error(features.permute(0, 3, 1, 2).float(), expected) < 1e-3


@torch.inference_mode()
def test_half_precision_is_within_its_bound(case, formulas):
    generator, weights, (face, w_plus, delta), _, expected = case
    editor = build_editor(generator, weights, torch.float16)
    image = editor.edit(w_plus[:1], delta[:1], *editor.invert(face[:1], w_plus[:1]))
    assert psnr(image.numpy(), expected[:1].numpy()) >= MIN_PSNR


def test_a_missing_weight_is_named(case):
    generator, weights, *_ = case
    fewer = {k: v for k, v in weights.items() if k != "editor.body.1.body.4.weight"}
    with pytest.raises(KeyError, match=r"editor\.body\.1\.body\.4\.weight"):
        build_editor(generator, fewer)


@torch.inference_mode()
def test_official_features_give_the_official_image(formulas):
    folder = Folder(ROOT / "tests" / "golden")
    described = folder.json("sfe_64.json", known=official.FIELDS)
    data = folder.arrays("sfe_64.npz")
    weights = official._weights(folder, described)
    shapes = folder.shapes(described["keys"], "sfe_64.json")
    inverter, feature_editor = official._build_empty(shapes)
    generator = weights.load(official._build_generator("sfe_64", described, folder), "decoder.")
    weights.load(inverter, official._INVERTER)
    weights.load(feature_editor, official._EDITOR)
    average = weights.average_latent(generator.num_latents, generator.w_dim)
    editor = build_editor(
        generator, to_weights(FaceToFeatures(inverter, feature_editor, generator, average))
    )
    face = torch.from_numpy(data["x_uint8"][:1].transpose(0, 3, 1, 2).copy()).float() / 127.5 - 1
    w_plus = torch.from_numpy(data["w_e4e"][:1])
    no_edit = [torch.zeros(1, count) for count in generator.style_channels]
    delta = torch.cat(official._edit(generator, no_edit, data["edits"]), 1)
    latent, features = editor.invert(face, w_plus)
    assert relative_error(latent, torch.from_numpy(data["w_recon"][:1])) < 1e-4
    image = editor.edit(w_plus, delta, latent, features)[0].permute(2, 0, 1).float()
    expected = (data["edit_crop"][:1].clip(-1, 1) + 1) * 127.5
    middle = official._middle(image[None], expected.shape[-1]).numpy()
    assert psnr(middle, expected.round()) >= MIN_PSNR


@torch.inference_mode()
def test_people_are_edited_as_onnxruntime_does(formulas):
    torch.manual_seed(0)
    with np.load(PEOPLE / "mapping.npz") as mapping:
        w_plus = torch.tensor(mapping["w_avg"]).float() + 0.1 * torch.randn(14, 512)
    with np.load(PEOPLE / "statistics.npz") as statistics:
        delta = torch.tensor(statistics["style_std"]) * 0.3
    face = torch.rand(3, 256, 256) * 2 - 1
    expected = FeatureEditor(PEOPLE / "features" / "1", 2, 1 << 20).edit(
        w_plus.numpy(), delta.numpy(), b"key", face.numpy
    )
    generator = CudaGenerator(read_parameters(PEOPLE / "stylegan2" / "1" / MODEL_FILE), "cpu")
    editor = CudaFeatureEditor(read_feature_weights(PEOPLE / "features" / "1"), generator)
    image = editor.edit(w_plus[None], delta[None], *editor.invert(face[None], w_plus[None]))
    assert psnr(image.numpy(), expected[None]) >= MIN_PSNR


def read_shipped_people():
    return read_shipped(PEOPLE)


def test_files_of_another_generator_are_refused(tmp_path):
    stylegan2 = PEOPLE / "stylegan2" / "1" / MODEL_FILE
    check_feature_weights(PEOPLE / "features" / "1", stylegan2)
    copy = tmp_path / "people"
    for name in ("features", "stylegan2"):
        (copy / name / "1").mkdir(parents=True)
        for file in (PEOPLE / name / "1").iterdir():
            (copy / name / "1" / file.name).write_bytes(file.read_bytes())
    features, stylegan2 = copy / "features" / "1", copy / "stylegan2" / "1" / MODEL_FILE
    check_feature_weights(features, stylegan2)
    stylegan2.write_bytes(stylegan2.read_bytes() + b"\0")
    with pytest.raises(ValueError, match=re.escape("belongs to another model.onnx")):
        check_feature_weights(features, stylegan2)
    (features / SHARED_WEIGHTS_FILE).unlink()
    (features / FEATURES_TO_IMAGE_FILE).unlink()
    with pytest.raises(FileNotFoundError, match=FEATURES_TO_IMAGE_FILE):
        read_feature_weights(features)


on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@on_gpu
@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("build", [read_shipped_people, build_published])
@torch.inference_mode()
def test_a_gpu_edits_features_as_the_reference_does(build, batch):
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    references, device = build(), torch.device("cuda")
    references.first.to(device), references.second.to(device)
    editor = references.build()
    invert, edit = Graphed(editor.invert, device), Graphed(editor.edit, device)
    face, w_plus, delta = references.example(batch)
    kept = [
        Features(*(x.clone() for x in invert(face[i : i + 1], w_plus[i : i + 1])))
        for i in range(batch)
    ]
    inputs = w_plus, delta, *(torch.cat(parts) for parts in zip(*kept, strict=True))
    image = edit(*inputs).clone()
    expected = references.second(w_plus, delta, *references.first(face, w_plus))
    assert psnr(image.cpu().numpy(), expected.cpu().numpy()) >= MIN_PSNR
    assert torch.equal(edit(*inputs), image)
