"""A request's tensors become edits, or a named error."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from styleclip_contract import errors, limits
from styleclip_contract.edits import Edit, normalize_text
from styleclip_server.pipeline.edit_tensors import parse_edits


def row(neutral=b"a face", target=b"a smiling face", strength=4.0, threshold=0.1):
    return [neutral], [target], [strength], [threshold]


def test_a_request_becomes_edits():
    neutral, target, strength, threshold = row("émotion".encode(), b"x" * limits.TEXT_CHARACTERS)
    (edit,) = parse_edits(neutral, target, np.array(strength, np.float32), threshold)
    assert edit == Edit("émotion", "x" * limits.TEXT_CHARACTERS, 4.0, 0.1)


texts = st.text("abcdefgh", min_size=1, max_size=4)
strengths = st.floats(-limits.STRENGTH, limits.STRENGTH, width=32)
thresholds = st.floats(0, 1, width=32)
rows_of_edits = st.tuples(texts, texts, strengths, thresholds).filter(
    lambda row: normalize_text(row[0]) != normalize_text(row[1])
)


@given(st.lists(rows_of_edits, min_size=1, max_size=limits.EDITS))
def test_every_request_within_the_limits_is_accepted(rows):
    neutral, target, strength, threshold = zip(*rows, strict=True)
    neutral, target = [text.encode() for text in neutral], [text.encode() for text in target]
    edits = parse_edits(neutral, target, strength, threshold)
    assert [(e.neutral, e.target, e.strength, e.threshold) for e in edits] == rows


@pytest.mark.parametrize(
    "request_rows, error, message",
    [
        (row(neutral=b""), errors.EmptyText, "the neutral text is empty"),
        (row(target=b" \t\n"), errors.EmptyText, "the target text is empty"),
        (row(target=b"\xff\xfe"), errors.EmptyText, "target text is not UTF-8"),
        (row(neutral=b"x" * 301), errors.TextTooLong, "301 characters; at most 300"),
        (row(strength=float("nan")), errors.InvalidStrength, "-20 to 20"),
        (row(strength=float("-inf")), errors.InvalidStrength, "α is -inf"),
        (row(strength=20.5), errors.InvalidStrength, r"α is 20\.5"),
        (row(threshold=float("nan")), errors.InvalidThreshold, "β is nan"),
        (row(threshold=-0.01), errors.InvalidThreshold, "0 to 1"),
        (row(threshold=1.01), errors.InvalidThreshold, r"β is 1\.01"),
        (row(target=b"A  face"), errors.SameTexts, "must differ"),
        (([], [], [], []), errors.EditsMismatch, "0, 0, 0, 0"),
        (([b"a"], [b"b", b"c"], [1.0], [0.1]), errors.EditsMismatch, "1, 2, 1, 1"),
        (([b"a"] * 17, [b"b"] * 17, [1.0] * 17, [0.1] * 17), errors.EditsMismatch, "1 to 16"),
    ],
)
def test_invalid_input_raises_a_named_error(request_rows, error, message):
    with pytest.raises(error, match=message):
        parse_edits(*request_rows)
