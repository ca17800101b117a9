"""How texts become an offset in StyleSpace, and when there is none.

tests/networks/test_golden_data.py compares with the official code; these are
properties that hold for any statistics.
"""

import re
import zlib

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from styleclip_contract import errors, limits
from styleclip_contract.edits import Edit
from styleclip_server.pipeline.directions import (
    class_embedding,
    class_embeddings,
    style_direction,
    style_offset,
    text_direction,
)
from styleclip_server.pipeline.prompt_templates import TEMPLATES
from styleclip_server.pipeline.style_statistics import Statistics, convolution_channels

CHANNELS = (6, 6, 6, 5, 5, 5, 4, 4)
WIDTH = 8


def unit(x):
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def embedding(text):
    """A unit vector that depends on the text alone."""
    return unit(np.random.default_rng(zlib.crc32(text.encode())).normal(size=WIDTH))


@st.composite
def statistics(draw):
    """Statistics of a small generator: some channels have no direction, some layers no rows."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = sum(CHANNELS)
    rows = convolution_channels(CHANNELS)
    rows = rows[: draw(st.integers(6, len(rows)))]
    fs3 = unit(rng.normal(size=(len(rows), WIDTH)))
    fs3[rng.random(len(rows)) < 0.1] = 0
    assume(fs3.any())
    mean, std = rng.normal(size=size), rng.uniform(0.1, 2, size)
    return Statistics(mean.astype(np.float32), std.astype(np.float32), fs3, rows)


texts = st.text("abcdefgh", min_size=1, max_size=4)
strengths = st.floats(-limits.STRENGTH, limits.STRENGTH, width=32)
thresholds = st.floats(0, 1, width=32)
directions = st.integers(0, 2**32).map(
    lambda seed: unit(np.random.default_rng(seed).normal(size=WIDTH))
)


@st.composite
def edits(draw):
    """An edit whose β keeps channels for any statistics."""
    neutral, target = draw(st.lists(texts, min_size=2, max_size=2, unique=True))
    return Edit(neutral, target, draw(strengths), threshold=0.0)


@given(statistics(), edits(), strengths)
def test_the_offset_is_linear_in_the_strength(numbers, edit, strength):
    one, _ = style_offset(numbers, [Edit(edit.neutral, edit.target, 1.0, 0.0)], embedding)
    many, _ = style_offset(numbers, [Edit(edit.neutral, edit.target, strength, 0.0)], embedding)
    np.testing.assert_allclose(many, np.float32(strength) * one, rtol=1e-6)
    assert many.dtype == np.float32 and many.shape == (sum(CHANNELS),)


@given(statistics(), edits())
def test_exchanged_texts_give_the_opposite_offset(numbers, edit):
    offset, counts = style_offset(numbers, [edit], embedding)
    reversed_edit = Edit(edit.target, edit.neutral, edit.strength, 0.0)
    opposite, reversed_counts = style_offset(numbers, [reversed_edit], embedding)
    np.testing.assert_allclose(opposite, -offset, atol=1e-5)
    assert reversed_counts == counts


@given(statistics(), directions, st.lists(thresholds, min_size=2, max_size=6))
def test_a_higher_threshold_keeps_a_subset_of_the_same_channels(numbers, direction, betas):
    before = None
    for beta in sorted(betas):
        try:
            offset, kept = style_direction(numbers, direction, beta)
        except errors.NoChannelLeft:
            offset, kept = np.zeros(sum(CHANNELS), np.float32), 0
        assert kept == np.count_nonzero(offset)
        if before is not None:
            assert kept <= np.count_nonzero(before)
            moved = offset != 0
            np.testing.assert_array_equal(offset[moved], before[moved])
        before = offset


@given(statistics(), directions)
def test_the_most_relevant_channel_moves_by_one_deviation_and_no_other_by_more(numbers, direction):
    offset, _ = style_direction(numbers, direction, 0.0)
    assert np.abs(offset / numbers.style_std).max() == pytest.approx(1, abs=1e-6)


@given(statistics(), directions)
def test_only_channels_with_a_nonzero_row_move(numbers, direction):
    offset, kept = style_direction(numbers, direction, 0.0)
    with_direction = numbers.rows[numbers.fs3.any(1)]
    assert set(np.flatnonzero(offset)) <= set(with_direction)
    assert kept <= len(with_direction)


def test_channels_of_torgb_have_no_rows():
    offsets = np.cumsum([0, *CHANNELS])
    of_rgb = {c for i in (1, 4, 7) for c in range(offsets[i], offsets[i + 1])}
    assert set(convolution_channels(CHANNELS)) == set(range(sum(CHANNELS))) - of_rgb


@given(statistics(), st.lists(edits(), min_size=2, max_size=4))
def test_several_edits_add_up_in_any_order(numbers, several):
    total, counts = style_offset(numbers, several, embedding)
    alone = [style_offset(numbers, [edit], embedding) for edit in several]
    np.testing.assert_allclose(total, sum(offset for offset, _ in alone), atol=1e-4)
    assert counts == [count for _, (count,) in alone]
    reordered, _ = style_offset(numbers, several[::-1], embedding)
    np.testing.assert_allclose(reordered, total, atol=1e-4)


@given(statistics(), directions)
def test_a_threshold_above_every_relevance_is_refused_with_one_that_works(numbers, direction):
    largest = float(np.abs(numbers.fs3 @ direction).max())
    assume(largest < 0.999)
    with pytest.raises(errors.NoChannelLeft) as raised:
        style_direction(numbers, direction, min(1.0, largest + 1e-3))
    suggested = float(re.search(r"at most (\S+) leaves", str(raised.value))[1])
    _, kept = style_direction(numbers, direction, suggested)
    assert kept >= 1 and largest - suggested <= 1.001e-3


@given(texts)
def test_texts_with_the_same_meaning_have_no_direction(text):
    same = embedding(text)
    with pytest.raises(errors.SameTexts, match="should change"):
        text_direction(same, same + np.float32(1e-6))


@given(st.lists(texts, min_size=2, max_size=2, unique=True))
def test_a_text_direction_has_length_one(pair):
    direction = text_direction(*map(embedding, pair))
    assert np.linalg.norm(direction) == pytest.approx(1, abs=1e-5)


def test_a_class_embedding_is_the_normalized_mean_of_normalized_features():
    features = np.array([[3, 0], [0, 0.5]], np.float32)
    np.testing.assert_allclose(class_embedding(features), np.full(2, 0.5**0.5), atol=1e-6)


def test_every_text_fills_every_template_in_one_batch():
    calls = []

    def encode(tokens):
        calls.append(tokens)
        return np.repeat(tokens.sum(1, keepdims=True), 4, 1) * np.arange(1, 5)

    embeddings = class_embeddings(["a face", "a dog"], encode)
    assert [call.shape for call in calls] == [(2 * len(TEMPLATES), 77)]
    assert len(embeddings) == 2 and embeddings[0].shape == (4,)
    with pytest.raises(errors.TextTooLong):
        class_embeddings(["word " * 75], encode)


@pytest.mark.parametrize("text", ["&nbsp;", "\0", " \ufeff ", "&amp;nbsp;", "<|endoftext|>"])
def test_a_text_of_which_the_tokenizer_leaves_nothing_is_refused(text):
    with pytest.raises(errors.EmptyText, match="no character that CLIP reads"):
        class_embeddings(["a face", text], lambda tokens: np.ones((len(tokens), WIDTH)))


def test_a_long_text_is_counted_and_quoted_without_the_template_around_it():
    def refusal(words):
        with pytest.raises(errors.TextTooLong) as caught:
            class_embeddings(["word " * words], lambda tokens: np.ones((len(tokens), WIDTH)))
        return str(caught.value)

    message = refusal(75)
    assert message.startswith("the text has 75 tokens")
    assert "begins with 'word word" in message and "photo" not in message
    room = int(re.search("at most ([0-9]+) fit", message)[1])
    class_embeddings(["word " * room], lambda tokens: np.ones((len(tokens), WIDTH)))
    assert f"the text has {room + 1} tokens" in refusal(room + 1)
