"""Features replace the generator's own, and StyleFeatureEditor's networks fit any generator."""

import pytest
import torch

from small_networks import small_generator, small_inverter
from styleclip_networks.sfe import FeatureFuser, edit_features, feature_change


@pytest.fixture(autouse=True)
def fixed_seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("resolution", [4, 8, 32])
@torch.inference_mode()
def test_the_generators_own_features_give_its_own_image(resolution):
    generator = small_generator(64)
    styles = generator.affine(torch.randn(2, generator.num_latents, 48))
    features = generator.features(styles, resolution)
    assert features.shape == (2, generator.channels[resolution], resolution, resolution)
    assert torch.equal(generator.synthesis(styles, features=features), generator.synthesis(styles))


@torch.inference_mode()
def test_other_features_are_continued_on_the_rgb_of_the_styles():
    """As in the official generator, where they are the input of the next convolution."""
    generator = small_generator(64)
    styles = generator.affine(torch.randn(1, generator.num_latents, 48))
    features = torch.randn(1, generator.channels[16], 16, 16)
    x, rgb = generator.constant_features(1, torch.float32), None
    for block in range(generator.num_blocks):
        x, rgb = generator.block(block, x, rgb, styles)
        if x.shape[-1] == 16:
            x = features
    assert torch.equal(generator.synthesis(styles, features=features), rgb)
    assert not torch.allclose(generator.synthesis(styles), rgb, atol=0.01)


@pytest.mark.parametrize(("resolution", "side"), [(32, 16), (128, 32)])
@torch.inference_mode()
def test_a_photo_is_inverted_and_edited_at_any_resolution(resolution, side):
    generator = small_generator(resolution)
    inverter = small_inverter(generator.num_latents, generator.channels[side]).eval()
    editor = FeatureFuser(generator.channels[side], units=1).eval()
    faces = torch.rand(3, 3, 4 * side, 4 * side) * 2 - 1
    w_plus, features = inverter(faces, generator, torch.zeros(48))
    assert w_plus.shape == (3, generator.num_latents, 48)
    alone = inverter(faces[1:2], generator, torch.zeros(48))
    torch.testing.assert_close(alone[1][0], features[1], atol=1e-4, rtol=0)

    styles = generator.affine(w_plus)
    edited = [style + 1 for style in styles]
    assert not feature_change(generator, styles, styles, side).any()
    inversion = edit_features(editor, generator, features, styles, styles)
    result = edit_features(editor, generator, features, styles, edited)
    assert inversion.shape == result.shape == (3, generator.channels[side], side, side)
    images = generator.synthesis(edited, features=result)
    assert images.shape == (3, 3, resolution, resolution)
    assert not torch.allclose(inversion, result)


def test_every_weight_of_inverter_and_editor_gets_a_gradient():
    generator = small_generator(32)
    inverter, editor = small_inverter(), FeatureFuser(32, units=1)
    w_plus, features = inverter(torch.rand(2, 3, 64, 64), generator, torch.zeros(48))
    styles = generator.affine(w_plus)
    generator.synthesis(styles, features=editor(features, features)).square().mean().backward()
    for network in (inverter, editor):
        assert all(p.grad.isfinite().all() for p in network.parameters())
