"""The variants for ONNX Runtime compute what the networks compute."""

import numpy as np
import onnx
import pytest
import torch
from torch.nn import functional as F

from small_networks import END, START, randomize, small_clip, small_encoder, small_generator
from styleclip_contract import wire
from styleclip_export.convert import onnx_export, onnx_variants
from styleclip_export.convert.comparison import Reference, compute_references, run_onnx
from styleclip_export.convert.network_variants import (
    clip_text_variants,
    e4e_variants,
    stylegan2_variants,
)
from styleclip_export.convert.wrappers import TokensToFeatures
from styleclip_networks.e4e import Encoder4Editing, GradualStyleEncoder


@pytest.fixture(autouse=True)
def winograd_for_few_channels(monkeypatch):
    """Small networks use the convolutions of large ones."""
    torch.manual_seed(0)
    monkeypatch.setattr(onnx_variants, "WINOGRAD_CHANNELS", 16)


def build_generator(**options):
    return randomize(small_generator(64, channel_base=1024, w_dim=24, **options))


def build_encoder(encoder_class=Encoder4Editing):
    return randomize(small_encoder(8, 24, depths=(1, 2, 2, 2), encoder_class=encoder_class))


def build_clip():
    clip = randomize(small_clip(text_layers=3, text_width=128, transformer_heads=4, vocab_size=200))
    clip.positional_embedding.data.normal_(std=0.2)
    clip.token_embedding.weight.data.normal_(std=0.2)
    return clip


def token_rows(*texts, pad=0):
    """Return tokens (N, 77): each text's words between start and end."""
    tokens = [[START, *words, END] for words in texts]
    return torch.tensor([row + [pad] * (77 - len(row)) for row in tokens], dtype=torch.int32)


def some_texts(n, words, longest):
    return [torch.randint(1, words + 1, (i % (longest + 1),)).tolist() for i in range(n)]


def with_ends_inside():
    """Rows whose end, the largest id, is a word in the middle of a later row."""
    return torch.tensor(
        [[1, 9, 5, 3] + [4] * 73, [1, 9, 5, 50] + [2] * 73, [1, 9, 5, 50, 60] + [7] * 72],
        dtype=torch.int32,
    )


TEXTS = {
    "one": lambda: token_rows([5, 6, 7]),
    "one without words": lambda: token_rows([]),
    "equal": lambda: token_rows([5, 6, 7], [5, 6, 7], [5, 6, 7]),
    "each in the next": lambda: token_rows([], [5], [5, 6], [5, 6, 7, 8, 9, 10, 11]),
    "each in the last": lambda: token_rows([5, 6, 7, 8, 9, 10, 11], [5, 6], [5], []),
    "nothing in common": lambda: token_rows([5, 6, 7], [6, 7, 5], [7, 5]),
    "the same end": lambda: token_rows([5, 8, 9], [6, 8, 9], [6, 6, 8, 9]),
    "few words": lambda: token_rows(*some_texts(40, 2, 9)),
    "many words": lambda: token_rows(*some_texts(40, 190, 12)),
    "the longest": lambda: token_rows([7] * 75, [7] * 74, [7] * 30 + [8] * 40, [8]),
    "filled up with ends": lambda: token_rows(*some_texts(9, 2, 5), pad=END),
    "ends inside": with_ends_inside,
}


def assert_close(a, b, relative=1e-5):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= relative * b.abs().max()


@pytest.mark.parametrize("size", [(8, 8), (16, 16), (32, 32), (12, 16), (24, 8)])
def test_winograd_filtering_equals_the_convolution(size):
    x, weight = torch.randn(2, 5, *size), torch.randn(7, 5, 3, 3)
    rows = onnx_variants.winograd(x.flatten(2).transpose(1, 2), weight, size)
    assert_close(rows.transpose(1, 2).unflatten(2, size), F.conv2d(x, weight, padding=1))


@pytest.mark.parametrize("side", [1, 4, 9])
def test_convolutions_by_parity_equal_the_transposed_convolution(side):
    x, weight = torch.randn(2, 5, side, side), torch.randn(7, 5, 3, 3)
    expected = F.conv_transpose2d(x, weight.transpose(0, 1), stride=2)
    assert_close(onnx_variants.transposed_by_parity(x, weight, side), expected)


@pytest.mark.parametrize("noise", [True, False])
@torch.inference_mode()
def test_the_generator_variant_gives_the_same_image(noise):
    g = build_generator(use_noise=noise)
    w = g.mapping(torch.randn(3 * g.num_latents, 24)).reshape(3, g.num_latents, 24)
    styles = g.affine(w)
    assert onnx_variants.suits_winograd(g.convs[3].conv.weight[0], (16, 16))
    assert_close(onnx_variants.synthesis(g, styles), g.synthesis(styles))


@pytest.mark.parametrize("steepest", [1.0, 1.5])
@torch.inference_mode()
def test_the_encoder_variant_gives_the_same_latents(steepest):
    e = build_encoder()
    e.body[0].res_layer[2].weight[3] = steepest  # the formula is valid only up to 1
    face = torch.randn(2, 3, 256, 256)
    assert_close(onnx_variants.encode(e, face), e(face))


@torch.inference_mode()
def test_psps_latents_are_those_of_its_encoder():
    e = build_encoder(GradualStyleEncoder)
    face = torch.randn(2, 3, 256, 256)
    assert_close(onnx_variants.encode(e, face), e(face))


@pytest.mark.parametrize("texts", TEXTS)
@torch.inference_mode()
def test_a_batch_of_texts_gives_the_features_of_each_text_alone(texts):
    c, tokens = build_clip(), TEXTS[texts]().long()
    expected = torch.cat([c.encode_text(row[None]) for row in tokens])
    assert_close(onnx_variants.encode_text(c, tokens), expected)


@pytest.mark.parametrize("texts", TEXTS)
@torch.inference_mode()
def test_a_prefix_that_texts_share_is_computed_once(texts):
    c, tokens = build_clip(), TEXTS[texts]().long()
    seen = []
    for block in c.transformer.resblocks:
        block.ln_2.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    onnx_variants.encode_text(c, tokens)
    ends = tokens.argmax(1).tolist()
    prefixes = {tuple(row[: i + 1].tolist()) for row, end in zip(tokens, ends, strict=True)
                  for i in range(end + 1)}  # fmt: skip
    assert seen == [len(prefixes), len(prefixes), len(tokens)]


@pytest.mark.parametrize("merged", [False, True])
@torch.inference_mode()
def test_one_file_serves_any_number_of_texts(merged):
    pairs = np.arange(49408) // 2  # words 4 and 5 are one, and so on
    pairs[END] += 1
    network, vocabulary = build_clip(), pairs if merged else None
    reference = TokensToFeatures(network, vocabulary)
    exported = TokensToFeatures(network, vocabulary, onnx_variants.encode_text)
    graph = onnx_export.to_onnx(exported, wire.CLIP_TEXT, (token_rows([5, 6], [5, 7]),))
    batches = [(texts(),) for texts in TEXTS.values()]
    expected = [torch.cat([reference(row[None]) for row in rows]).numpy() for (rows,) in batches]
    references = [Reference(*pair) for pair in zip(batches, expected, strict=True)]
    outputs = run_onnx(graph.SerializeToString(), wire.CLIP_TEXT, references)
    for output, features in zip(outputs, expected, strict=True):
        assert_close(*map(torch.from_numpy, (output, features)))


def test_exported_files_keep_every_parameter_by_its_name(tmp_path):
    g = build_generator()
    table = np.arange(49408) % 200
    for variants in (
        stylegan2_variants(g),
        e4e_variants(build_encoder(), g),
        clip_text_variants(build_clip(), table),
    ):
        references = compute_references(variants.reference, variants.draw_inputs, (1, 3))
        onnx_export.write(variants, references, tmp_path, print)
        nodes = onnx.load(tmp_path / "model.onnx").graph
        known = {t.name for t in nodes.initializer} | {o for n in nodes.node for o in n.output}
        for name, _ in variants.onnxruntime.named_parameters():
            unused = any(part in name for part in (".style.", "clip.visual.", "logit_scale"))
            assert name in known or unused, name
