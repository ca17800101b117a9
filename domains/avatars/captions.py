"""Captions of avatars: a small grammar over the phrases of `attributes`, and what each one claims.

A caption claims, for each attribute, which values are allowed; an attribute that it does not
mention allows them all. Claims are bit masks over all values, so that a batch of captions can be
matched with a batch of pictures at once. Sentence patterns of the quality report are not among
`PATTERNS`: see `quality.py`.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from attributes import ATTRIBUTES, NAMES, NUM_VALUES, OFFSETS, SIZES

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
# Words that are true of several values: (attribute, values, adjectives, phrases).
GENERIC = (
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
WORN = ("top", "accessories", "clothes", "clothes_colour")


@dataclass(frozen=True)
class Phrase:
    """A phrase and its claim: `allowed` are value indices of attribute number `attribute`."""

    text: str
    adjective: bool
    attribute: int
    allowed: tuple[int, ...]


def _phrases() -> tuple[Phrase, ...]:
    found = []
    for a, attribute in enumerate(ATTRIBUTES):
        for v, value in enumerate(attribute.values):
            found += [Phrase(t, True, a, (v,)) for t in value.adjectives]
            found += [Phrase(t, False, a, (v,)) for t in value.with_]
    for name, values, adjectives, phrases in GENERIC:
        a = NAMES.index(name)
        allowed = tuple(ATTRIBUTES[a].index(v) for v in values)
        found += [Phrase(t, True, a, allowed) for t in adjectives]
        found += [Phrase(t, False, a, allowed) for t in phrases]
    return tuple(found)


PHRASES = _phrases()


def _by_claim() -> dict[tuple[int, tuple[int, ...]], list[Phrase]]:
    claims: dict[tuple[int, tuple[int, ...]], list[Phrase]] = {}
    for phrase in PHRASES:
        claims.setdefault((phrase.attribute, phrase.allowed), []).append(phrase)
    return claims


CLAIMS = _by_claim()


def full_mask() -> int:
    """The claim that allows everything."""
    return (1 << NUM_VALUES) - 1


def claim_mask(phrase: Phrase) -> int:
    """Bits of the values that `phrase` allows; all bits of the other attributes are set."""
    start, size = OFFSETS[phrase.attribute], SIZES[phrase.attribute]
    mask = full_mask() & ~(((1 << size) - 1) << start)
    for v in phrase.allowed:
        mask |= 1 << (start + v)
    return mask


def _article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _list(parts: list[str], rng: random.Random) -> str:
    if len(parts) == 1:
        return parts[0]
    joint = rng.choice((" and ", ", ", " and ")) if len(parts) == 2 else " and "
    return ", ".join(parts[:-1]) + joint + parts[-1]


def neutral(rng: random.Random) -> str:
    """A text that claims nothing."""
    noun = rng.choice(NOUNS)
    return rng.choice((noun, _article(noun), _article(noun), f"the {noun}"))


def sentence(phrases: list[Phrase], rng: random.Random, noun: str | None = None) -> str:
    """One caption that says all of `phrases` (in a random order and pattern)."""
    noun = noun or rng.choice(NOUNS)
    phrases = rng.sample(phrases, len(phrases))
    adjectives = [p.text for p in phrases if p.adjective]
    withs = [p.text for p in phrases if not p.adjective]
    if len(phrases) == 1 and rng.random() < 0.12:
        return phrases[0].text
    worn = withs and all(NAMES[p.attribute] in WORN for p in phrases if not p.adjective)
    joint = rng.choice(("with", "with", "with", "having", "who has"))
    if worn and rng.random() < 0.5:
        joint = rng.choice(("wearing", "in", "who wears"))
    subject = " ".join([*adjectives, noun])
    if adjectives and not withs and rng.random() < 0.25:
        who = rng.choice(("someone", "somebody", "a person who is", f"{_article(noun)} that is"))
        return f"{who} {_list(adjectives, rng)}"
    start = rng.choice(
        (_article(subject), _article(subject), subject, f"the {subject}", f"one {subject}")
    )
    if not withs:
        return start
    if rng.random() < 0.1 and not adjectives:
        return f"{_list(withs, rng)} on {_article(noun)}"
    if rng.random() < 0.1:
        who = " ".join(["someone", *adjectives])
        return f"{who} {joint} {_list(withs, rng)}"
    return f"{start} {joint} {_list(withs, rng)}"


def random_caption(rng: random.Random) -> tuple[str, int]:
    """A caption with 0 to 4 claims and its mask."""
    count = rng.choices((0, 1, 2, 3, 4), (0.03, 0.42, 0.3, 0.17, 0.08))[0]
    if count == 0:
        return neutral(rng), full_mask()
    claims = rng.sample(list(CLAIMS), len(CLAIMS))
    chosen: dict[int, Phrase] = {}
    for claim in claims:
        if claim[0] not in chosen and len(chosen) < count:
            chosen[claim[0]] = rng.choice(CLAIMS[claim])
    mask = full_mask()
    for phrase in chosen.values():
        mask &= claim_mask(phrase)
    return sentence(list(chosen.values()), rng), mask
