"""Captions of heads: the words that `attributes.json` lacks, and captions of labeled heads."""

from __future__ import annotations

import random
from collections.abc import Mapping

from domains.people.attributes import TABLE
from domains.training.grammar import Grammar, Phrase

NEUTRAL_NOUNS = ("person", "person", "face", "portrait", "photo of a person")
NOUNS_BY_SEX = {
    "female": ("woman", "lady", "woman", "female face", "photo of a woman"),
    "male": ("man", "man", "guy", "male face", "photo of a man"),
}
NOUNS_OF_CHILDREN = {"female": ("girl", "child", "kid"), "male": ("boy", "child", "kid")}
WORN = ("glasses", "headwear", "earrings", "lipstick", "clothes", "clothes_color", "pattern")
# Words that describe several values: (attribute, values, adjectives, phrases).
SHARED_WORDS = (
    ("glasses", ("round glasses", "square glasses"), (), ("glasses", "spectacles", "eyeglasses")),
    ("glasses", ("round glasses", "square glasses", "sunglasses"), (), ("something on the nose",)),
    ("beard", ("goatee", "short beard", "full beard"), ("bearded",), ("a beard",)),
    ("beard", ("moustache", "goatee", "short beard", "full beard"), (), ("facial hair",)),
    ("headwear", ("hat", "beanie"), (), ("headwear", "a covered head")),
    ("expression", ("smile", "laugh"), ("smiling", "happy", "cheerful"), ("a smile",)),
    ("expression", ("laugh", "surprised"), (), ("an open mouth",)),
    ("hair_style", ("bob", "long", "wavy"), (), ("hair over the ears",)),
    ("hair_style", ("long", "wavy"), ("long-haired",), ("long hair", "hair past the shoulders")),
    ("hair_style", ("buzz cut", "short", "side-parted"), ("short-haired",), ("short hair",)),
    ("hair_color", ("black", "dark brown"), ("dark-haired",), ("dark hair",)),
    ("hair_color", ("grey", "white"), (), ("grey hair", "silver hair")),
    ("hair_color", ("dark brown", "brown"), ("brunette",), ("brown hair",)),
    ("earrings", ("studs", "hoops"), (), ("earrings",)),
    ("age", ("child", "young"), ("young",), ()),
)
_ADULT = ("young", "middle-aged", "old")
_NOUN_CLAIMS = {
    noun: {"sex": (sex,), "age": _ADULT} for sex, nouns in NOUNS_BY_SEX.items() for noun in nouns
}
_NOUN_CLAIMS |= {
    "girl": {"sex": ("female",), "age": ("child",)},
    "boy": {"sex": ("male",), "age": ("child",)},
    "child": {"age": ("child",)},
    "kid": {"age": ("child",)},
}
GRAMMAR = Grammar(
    TABLE, (*NEUTRAL_NOUNS * 2, *_NOUN_CLAIMS), SHARED_WORDS, WORN, noun_claims=_NOUN_CLAIMS
)
PAIR_NOUNS = ("face", "person", "portrait", "man", "woman", "head")


def true_phrases(labels: Mapping[str, str]) -> list[Phrase]:
    """Return the phrases that hold for a head's labels."""
    values = TABLE.encode(labels)
    return [phrase for phrase in GRAMMAR.phrases if values[phrase.attribute] in phrase.allowed]


def describe(labels: Mapping[str, str], rng: random.Random) -> tuple[str, list[Phrase]]:
    """Write a caption of 0 to 4 phrases that are true of the labels; return it and the phrases."""
    candidates: dict[int, list[Phrase]] = {}
    for phrase in true_phrases(labels):
        candidates.setdefault(phrase.attribute, []).append(phrase)
    # What a photo's writer mentions first: that something is there, not that it is missing.
    absent = {a for a, name in enumerate(TABLE.names) if labels[name] in ("none", "no")}
    weights = {a: 0.25 if a in absent else 1.0 for a in candidates}
    count = rng.choices((0, 1, 2, 3, 4), (0.04, 0.36, 0.32, 0.19, 0.09))[0]
    chosen: list[Phrase] = []
    while candidates and len(chosen) < count:
        attribute = rng.choices(list(candidates), [weights[a] for a in candidates])[0]
        chosen.append(rng.choice(candidates.pop(attribute)))
    return GRAMMAR.write_sentence(chosen, _draw_noun(labels, chosen, rng), rng), chosen


def _draw_noun(labels: Mapping[str, str], chosen: list[Phrase], rng: random.Random) -> str:
    says_sex = TABLE.names.index("sex") in {phrase.attribute for phrase in chosen}
    if says_sex or rng.random() < 0.35:
        return rng.choice(NEUTRAL_NOUNS)
    if labels["age"] == "child":
        return rng.choice(NOUNS_OF_CHILDREN[labels["sex"]])
    return rng.choice(NOUNS_BY_SEX[labels["sex"]])
