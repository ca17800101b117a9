"""Captions of avatars: a small grammar over the phrases of `attributes`, and what a caption claims.

A claim is a bit mask over all values: for each attribute the values that the caption allows, and
all of them where it does not mention the attribute. Masks let a batch of captions be matched with a
batch of images at once. The grammar does not generate the rephrased texts of the quality report
(`text_pairs.py`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from domains.avatars.attributes import ATTRIBUTES, NAMES, NUM_VALUES, OFFSETS, SIZES

NOUNS = (
    "face",
    "face",
    "person",
    "character",
    "avatar",
    "cartoon face",
    "cartoon character",
    "head",
    "figure",
    "portrait",
    "man",
    "woman",
)
# Words that describe several values: (attribute, values, adjectives, phrases).
SHARED_WORDS = (
    (
        "accessories",
        ("round glasses", "square glasses"),
        ("bespectacled",),
        ("glasses", "spectacles", "eyeglasses", "clear glasses"),
    ),
    (
        "facial_hair",
        ("short beard", "long beard"),
        ("bearded", "unshaven"),
        ("a beard", "a beard on the chin", "a grown beard"),
    ),
    (
        "facial_hair",
        ("short beard", "long beard", "moustache"),
        (),
        ("facial hair", "hair on the face"),
    ),
    (
        "top",
        ("hat", "winter hat", "turban", "hijab"),
        (),
        ("headwear", "a covered head", "something on the head"),
    ),
    ("top", ("long", "dreadlocks"), (), ("very long hair", "hair past the shoulders")),
)
WORN = ("top", "accessories", "clothes", "clothes_color")  # attributes that follow "wearing"


@dataclass(frozen=True)
class Phrase:
    """A phrase and its claim: `allowed` are indices of values of attribute `attribute`."""

    text: str
    is_adjective: bool
    attribute: int
    allowed: tuple[int, ...]


def _collect_phrases() -> tuple[Phrase, ...]:
    result = []
    for a, attribute in enumerate(ATTRIBUTES):
        for v, value in enumerate(attribute.values):
            result += [Phrase(t, True, a, (v,)) for t in value.adjectives]
            result += [Phrase(t, False, a, (v,)) for t in value.phrases]
    for name, values, adjectives, phrases in SHARED_WORDS:
        a = NAMES.index(name)
        allowed = tuple(ATTRIBUTES[a].index(v) for v in values)
        result += [Phrase(t, True, a, allowed) for t in adjectives]
        result += [Phrase(t, False, a, allowed) for t in phrases]
    return tuple(result)


Claim = tuple[int, tuple[int, ...]]  # attribute, allowed values
PHRASES = _collect_phrases()


def _group_by_claim() -> dict[Claim, list[Phrase]]:
    claims: dict[Claim, list[Phrase]] = {}
    for phrase in PHRASES:
        claims.setdefault((phrase.attribute, phrase.allowed), []).append(phrase)
    return claims


PHRASES_BY_CLAIM = _group_by_claim()


ALL_VALUES = (1 << NUM_VALUES) - 1  # the claim that allows everything


def claim_mask(phrase: Phrase) -> int:
    """Return the mask of the values that `phrase` allows, with all other attributes' bits set."""
    start, size = OFFSETS[phrase.attribute], SIZES[phrase.attribute]
    mask = ALL_VALUES & ~(((1 << size) - 1) << start)
    for v in phrase.allowed:
        mask |= 1 << (start + v)
    return mask


def neutral_text(rng: random.Random) -> str:
    """Draw a text that claims nothing."""
    noun = rng.choice(NOUNS)
    return rng.choice((noun, _with_article(noun), _with_article(noun), f"the {noun}"))


def write_sentence(phrases: list[Phrase], rng: random.Random, noun: str | None = None) -> str:
    """Write a caption that says all of `phrases`, in a random order and pattern."""
    noun = noun or rng.choice(NOUNS)
    phrases = rng.sample(phrases, len(phrases))
    if len(phrases) == 1 and rng.random() < 0.12:
        return phrases[0].text
    adjectives = [phrase.text for phrase in phrases if phrase.is_adjective]
    features = [phrase for phrase in phrases if not phrase.is_adjective]
    connector = _draw_connector(features, rng)
    if not features:
        return _write_adjectives(noun, adjectives, rng)
    return _write_features(noun, adjectives, connector, [phrase.text for phrase in features], rng)


def _draw_connector(features: list[Phrase], rng: random.Random) -> str:
    connector = rng.choice(("with", "with", "with", "having", "who has"))
    worn = features and all(NAMES[phrase.attribute] in WORN for phrase in features)
    if worn and rng.random() < 0.5:
        connector = rng.choice(("wearing", "in", "who wears"))
    return connector


def _write_adjectives(noun: str, adjectives: list[str], rng: random.Random) -> str:
    if adjectives and rng.random() < 0.25:
        who = rng.choice(
            ("someone", "somebody", "a person who is", f"{_with_article(noun)} that is")
        )
        return f"{who} {_join(adjectives, rng)}"
    return _draw_subject(noun, adjectives, rng)


def _write_features(
    noun: str, adjectives: list[str], connector: str, features: list[str], rng: random.Random
) -> str:
    subject = _draw_subject(noun, adjectives, rng)
    if rng.random() < 0.1 and not adjectives:
        return f"{_join(features, rng)} on {_with_article(noun)}"
    if rng.random() < 0.1:
        subject = " ".join(["someone", *adjectives])
    return f"{subject} {connector} {_join(features, rng)}"


def _draw_subject(noun: str, adjectives: list[str], rng: random.Random) -> str:
    words = " ".join([*adjectives, noun])
    return rng.choice(
        (_with_article(words), _with_article(words), words, f"the {words}", f"one {words}")
    )


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _join(parts: list[str], rng: random.Random) -> str:
    if len(parts) == 1:
        return parts[0]
    last = rng.choice((" and ", ", ", " and ")) if len(parts) == 2 else " and "
    return ", ".join(parts[:-1]) + last + parts[-1]


def draw_caption(rng: random.Random) -> tuple[str, int]:
    """Draw a caption with 0 to 4 claims; return it and its mask."""
    count = rng.choices((0, 1, 2, 3, 4), (0.03, 0.42, 0.3, 0.17, 0.08))[0]
    if count == 0:
        return neutral_text(rng), ALL_VALUES
    chosen: dict[int, Phrase] = {}  # one for each attribute
    for claim in rng.sample(list(PHRASES_BY_CLAIM), len(PHRASES_BY_CLAIM)):
        if claim[0] not in chosen and len(chosen) < count:
            chosen[claim[0]] = rng.choice(PHRASES_BY_CLAIM[claim])
    mask = ALL_VALUES
    for phrase in chosen.values():
        mask &= claim_mask(phrase)
    return write_sentence(list(chosen.values()), rng), mask
