"""StyleFeatureEditor as ONNX computes what PyTorch does, for any batch."""

import dataclasses

import numpy as np
import onnxruntime
import pytest
import torch

from small_networks import randomize, small_generator, small_inverter
from styleclip_contract import wire
from styleclip_export.convert import onnx_export
from styleclip_export.convert.feature_wrappers import (
    REFERENCE,
    FaceToFeatures,
    FeaturesToImage,
    average_windows,
)
from styleclip_export.convert.onnx_feature_variants import ONNXRUNTIME
from styleclip_export.convert.wrappers import to_pixels
from styleclip_networks.sfe import (
    FeatureFuser,
    Inverter,
    drop_changed_details,
    edit_features,
)

SIDE, CHANNELS = 16, 128  # of the features, which Winograd's convolutions take
LATENT = wire.Tensor("LATENT", "FP32", (-1, 48), "of the inverter")
FEATURES = wire.Tensor("FEATURES", "FP32", (CHANNELS, SIDE, SIDE), "of the face")


@pytest.fixture(scope="module")
def networks():
    """Generator, inverter and editor."""
    torch.manual_seed(0)
    generator = small_generator(64, channel_base=2048, channel_max=CHANNELS)
    inverter = randomize(small_inverter(generator.num_latents, CHANNELS))
    return generator, inverter, randomize(FeatureFuser(CHANNELS, units=2))


def outputs_of(build, inputs, names):
    """Yield the outputs of PyTorch and ONNX Runtime at batches 1, 2 and 8; inputs are of 8 rows."""
    model = wire.Model("graph", "onnxruntime", *names)
    traced = tuple(x[: onnx_export.TRACED_BATCH] for x in inputs)
    graph = onnx_export.to_onnx(build(ONNXRUNTIME), model, traced)
    wrapper = build(REFERENCE)
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    for batch in (1, 2, 8):
        rows = [x[:batch] for x in inputs]
        feed = {t.name: x.numpy() for t, x in zip(model.inputs, rows, strict=True)}
        feed = {entry.name: feed[entry.name] for entry in session.get_inputs()}
        with torch.inference_mode():
            expected = wrapper(*rows)
        expected = expected if isinstance(expected, tuple) else (expected,)
        yield [x.numpy() for x in expected], session.run(None, feed)


def random_inputs(generator):
    """Faces, e4e's latents and offsets in StyleSpace, 8 of each."""
    faces = torch.rand(8, 3, 4 * SIDE, 4 * SIDE) * 2 - 1
    delta = 0.3 * torch.randn(8, sum(generator.style_channels))
    return faces, torch.randn(8, generator.num_latents, 48), delta


def test_the_inverter_as_onnx(networks):
    generator, inverter, editor = networks
    w_avg = torch.randn(48)

    def build(functions):
        return FaceToFeatures(inverter, editor, generator, w_avg, functions)

    faces, w_e4e, _ = random_inputs(generator)
    names = (wire.FACE_CROP, wire.W_PLUS), (LATENT, FEATURES)
    for expected, ours in outputs_of(build, (faces, w_e4e), names):
        for a, b in zip(expected, ours, strict=True):
            np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * max(1, np.abs(a).max()))


@pytest.mark.parametrize("own_latent", [True, False])
def test_the_editor_and_the_generator_as_onnx(networks, own_latent):
    generator, _, editor = networks

    def build(functions):
        return FeaturesToImage(editor, generator, functions, own_latent=own_latent)

    _, w_e4e, delta = random_inputs(generator)
    channels = CHANNELS if own_latent else 2 * CHANNELS
    features = dataclasses.replace(FEATURES, shape=(channels, SIDE, SIDE))
    inputs = (w_e4e, delta, torch.randn_like(w_e4e), torch.randn(8, channels, SIDE, SIDE))
    names = (wire.W_PLUS, wire.DELTA, LATENT, features), (wire.IMAGE,)
    for (expected,), (ours,) in outputs_of(build, inputs, names):
        difference = np.abs(expected.astype(int) - ours.astype(int))
        assert ours.shape == expected.shape == (len(expected), 64, 64, 3)
        assert difference.max() <= 1 and difference.mean() < 0.01


@torch.inference_mode()
def test_the_two_graphs_together_edit_as_the_networks_do(networks):
    generator, inverter, editor = networks
    faces, w_e4e, delta = random_inputs(generator)
    w_plus, features = inverter(faces, generator, torch.zeros(48))
    offsets = generator.split_styles(delta)
    styles, e4e_styles = generator.affine(w_plus), generator.affine(w_e4e)
    edited, e4e_edited = ([a + b for a, b in zip(each, offsets, strict=True)]
                          for each in (styles, e4e_styles))  # fmt: skip
    changed = edit_features(editor, generator, features, e4e_styles, e4e_edited)
    expected = to_pixels(generator.synthesis(edited, features=changed))

    first = FaceToFeatures(inverter, editor, generator, torch.zeros(48))
    image = FeaturesToImage(editor, generator)(w_e4e, delta, *first(faces, w_e4e))
    assert (image.int() - expected.int()).abs().max() <= 1


@torch.inference_mode()
def test_the_two_graphs_of_an_inverter_without_latents_drop_changed_details(networks):
    generator, _, editor = networks
    torch.manual_seed(1)
    inverter = randomize(Inverter(0, (8, 12, 16), (1, 2, 1), CHANNELS, 2))
    faces, w_e4e, delta = random_inputs(generator)
    styles = generator.affine(w_e4e)
    edited = [a + b for a, b in zip(styles, generator.split_styles(delta), strict=True)]
    before, after = (generator.features(s, SIDE) for s in (styles, edited))
    predicted = inverter.fs_backbone.features(faces)
    photo = drop_changed_details(inverter.fuser(predicted, before), before, after)
    features = editor(photo, before - after)
    expected = to_pixels(generator.synthesis(edited, features=features))

    first = FaceToFeatures(inverter, editor, generator, torch.zeros(48))
    second = FeaturesToImage(editor, generator, own_latent=False)
    image = second(w_e4e, delta, *first(faces, w_e4e))
    assert (image.int() - expected.int()).abs().max() <= 1


def test_details_give_way_only_where_an_edit_changes_much():
    photo, before = torch.randn(2, 1, 4, 32, 32)
    after = before.clone()
    after[..., :16] += 5
    after[..., 16:] += 0.01
    result = drop_changed_details(photo, before, after)
    torch.testing.assert_close(result[..., :15], before[..., :15])
    torch.testing.assert_close(result[..., 18:], photo[..., 18:])
    torch.testing.assert_close(drop_changed_details(photo, before, before), photo)


@pytest.mark.parametrize("side", [32, 64, 128])
def test_uneven_windows_are_those_of_adaptive_average_pooling(side):
    x = torch.randn(1, 2, side, side)
    matrix = average_windows(side)
    torch.testing.assert_close(matrix @ x @ matrix.T, torch.nn.functional.adaptive_avg_pool2d(x, 3))
