"""The text pairs of the quality report."""

from __future__ import annotations

from functools import partial

from domains.people.attributes import TABLE
from domains.training import text_pairs

TextPair = partial(text_pairs.TextPair, TABLE)

# What a value of an attribute hides. It does not count where the value appears, nor in an edit that
# asks for the value, whether it appears or not.
HIDES = {
    ("glasses", "sunglasses"): ("eye_color",),
    ("headwear", "hat"): ("hair_style", "earrings"),
    ("headwear", "beanie"): ("hair_style", "earrings"),
    ("hair_style", "bald"): ("hair_color",),
    ("expression", "eyes closed"): ("eye_color",),
}
TEXT_PAIRS = (
    TextPair("a smiling face", "expression", ("smile", "laugh")),
    TextPair("a laughing face", "expression", ("laugh",)),
    TextPair("a sad face", "expression", ("sad",)),
    TextPair("an angry face", "expression", ("angry",)),
    TextPair("a surprised face", "expression", ("surprised",)),
    TextPair("a face with closed eyes", "expression", ("eyes closed",)),
    TextPair("a face with round glasses", "glasses", ("round glasses",)),
    TextPair("a face with sunglasses", "glasses", ("sunglasses",)),
    TextPair("a face with a beard", "beard", ("goatee", "short beard", "full beard")),
    TextPair("a face with a moustache", "beard", ("moustache",)),
    TextPair("a bald face", "hair_style", ("bald",)),
    TextPair("a face with curly hair", "hair_style", ("curly",)),
    TextPair("a face with long hair", "hair_style", ("long", "wavy")),
    TextPair("a face with blond hair", "hair_color", ("blond",)),
    TextPair("a face with black hair", "hair_color", ("black", "dark brown")),
    TextPair("a face with red hair", "hair_color", ("red",)),
    TextPair("a face with grey hair", "hair_color", ("grey", "white")),
    TextPair("an old face", "age", ("old",)),
    TextPair("a young face", "age", ("young", "child")),
    TextPair("a face with a hat", "headwear", ("hat",)),
    # Rephrased: the grammar of the captions does not generate these.
    TextPair("the eyes of this person are shut", "expression", ("eyes closed",), "a person", False),
    TextPair("a man whose hair is golden", "hair_color", ("blond",), "a man", False),
    TextPair("cheerful is how this one looks", "expression", ("smile", "laugh"), "this one", False),
)


def find_hidden(pair: text_pairs.TextPair) -> frozenset[str]:
    """Return the attributes that the pair's target hides, whichever of its values appears."""
    hidden = [frozenset(HIDES.get((pair.attribute, value), ())) for value in pair.values]
    return frozenset.intersection(*hidden)
