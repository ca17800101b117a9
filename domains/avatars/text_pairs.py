"""The text pairs of the quality report."""

from __future__ import annotations

from functools import partial

from domains.avatars.attributes import TABLE
from domains.training import text_pairs

TextPair = partial(text_pairs.TextPair, TABLE)
TEXT_PAIRS = (
    TextPair("a face with round glasses", "accessories", ("round glasses",)),
    TextPair("a face with sunglasses", "accessories", ("sunglasses",)),
    TextPair("a face with an eyepatch", "accessories", ("eyepatch",)),
    TextPair("a smiling face", "mouth", ("smile",)),
    TextPair("a sad face", "mouth", ("sad",)),
    TextPair("a screaming face", "mouth", ("screaming",)),
    TextPair("a face with a beard", "facial_hair", ("short beard", "long beard")),
    TextPair("a face with a moustache", "facial_hair", ("moustache",)),
    TextPair("a face with closed eyes", "eyes", ("closed",)),
    TextPair("a surprised face", "eyes", ("surprised",)),
    TextPair("an angry face", "eyebrows", ("angry",)),
    TextPair("a face with red hair", "hair_color", ("red",)),
    TextPair("a face with blond hair", "hair_color", ("blonde",)),
    TextPair("a face with black hair", "hair_color", ("black",)),
    TextPair("a face with an afro", "top", ("afro",)),
    TextPair("a face with a hat", "top", ("hat", "winter hat")),
    # Rephrased: the grammar of the captions does not generate these.
    TextPair("the eyes of this person are shut", "eyes", ("closed",), "a person", False),
    TextPair("a man whose hair is golden", "hair_color", ("blonde",), "a man", False),
    TextPair(
        "glasses that are dark on the face", "accessories", ("sunglasses",), "the face", False
    ),
    TextPair("cheerful is how this one looks", "mouth", ("smile",), "this one", False),
    TextPair(
        "a woman with glasses which are round", "accessories", ("round glasses",), "a woman", False
    ),
)
