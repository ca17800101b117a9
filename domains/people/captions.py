"""Captions of heads: a small grammar that says only what the labels say.

`describe` writes a caption of a head from its labels; a text says nothing of an attribute that the
image does not show. `claims` returns what a caption's phrases allow, for tests and training.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from domains.people.attributes import ATTRIBUTES, UNSEEN

NOUNS = ("person", "person", "face", "portrait", "photo of a person")
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


@dataclass(frozen=True)
class Phrase:
    """A phrase and what it claims: the values of an attribute that it allows."""

    text: str
    is_adjective: bool
    attribute: str
    allowed: frozenset[str]


def _collect() -> tuple[Phrase, ...]:
    """Collect the phrases; words of several values become one phrase that allows them all."""
    allowed: dict[tuple[str, bool, str], set[str]] = {}

    def add(
        attribute: str, values: tuple[str, ...], texts: tuple[str, ...], is_adjective: bool
    ) -> None:
        for text in texts:
            allowed.setdefault((text, is_adjective, attribute), set()).update(values)

    for attribute in ATTRIBUTES.values():
        for value in attribute.values:
            add(attribute.name, (value.name,), value.adjectives, True)
            add(attribute.name, (value.name,), value.phrases, False)
    for name, values, adjectives, phrases in SHARED_WORDS:
        add(name, values, adjectives, True)
        add(name, values, phrases, False)
    return tuple(
        Phrase(text, is_adjective, attribute, frozenset(values))
        for (text, is_adjective, attribute), values in allowed.items()
    )


PHRASES = _collect()


def true_phrases(labels: dict[str, str]) -> list[Phrase]:
    """Return the phrases that hold for a head's labels."""
    return [
        p for p in PHRASES if labels[p.attribute] != UNSEEN and labels[p.attribute] in p.allowed
    ]


def describe(labels: dict[str, str], rng: random.Random) -> tuple[str, list[Phrase]]:
    """Write a caption of 0 to 4 phrases that are true of the labels; return it and the phrases."""
    candidates: dict[str, list[Phrase]] = {}
    for phrase in true_phrases(labels):
        candidates.setdefault(phrase.attribute, []).append(phrase)
    # What a photo's writer mentions first: that something is there, not that it is missing.
    weights = {name: 0.25 if labels[name] in ("none", "no") else 1.0 for name in candidates}
    count = rng.choices((0, 1, 2, 3, 4), (0.04, 0.36, 0.32, 0.19, 0.09))[0]
    chosen: list[Phrase] = []
    names = list(candidates)
    while names and len(chosen) < count:
        name = rng.choices(names, [weights[n] for n in names])[0]
        names.remove(name)
        chosen.append(rng.choice(candidates[name]))
    return write_sentence(chosen, _draw_noun(labels, chosen, rng), rng), chosen


def _draw_noun(labels: dict[str, str], chosen: list[Phrase], rng: random.Random) -> str:
    said = {phrase.attribute for phrase in chosen}
    if "sex" in said or rng.random() < 0.35:
        return rng.choice(NOUNS)
    if labels["age"] == "child":
        return rng.choice(NOUNS_OF_CHILDREN[labels["sex"]])
    return rng.choice(NOUNS_BY_SEX[labels["sex"]])


def write_sentence(phrases: list[Phrase], noun: str, rng: random.Random) -> str:
    """Write a caption that says all of `phrases`, in a random order and pattern."""
    phrases = rng.sample(phrases, len(phrases))
    adjectives = [phrase.text for phrase in phrases if phrase.is_adjective]
    features = [phrase for phrase in phrases if not phrase.is_adjective]
    if len(phrases) == 1 and features and rng.random() < 0.1:
        return features[0].text
    subject = _write_subject(noun, adjectives, rng)
    if not features:
        return subject
    words = _join([phrase.text for phrase in features])
    return f"{subject} {_draw_connector(features, rng)} {words}"


def _draw_connector(features: list[Phrase], rng: random.Random) -> str:
    connector = rng.choice(("with", "with", "with", "having"))
    worn = all(p.attribute in WORN and not p.text.startswith("no ") for p in features)
    return "wearing" if worn and rng.random() < 0.5 else connector


def _write_subject(noun: str, adjectives: list[str], rng: random.Random) -> str:
    if " of a " in noun:  # "photo of a woman": the adjectives are the woman's
        outer, inner = noun.split(" of a ")
        return f"{_with_article(outer)} of {_with_article(' '.join([*adjectives, inner]))}"
    words = " ".join([*adjectives, noun])
    return rng.choice((_with_article(words), _with_article(words), words, f"the {words}"))


def _with_article(words: str) -> str:
    return ("an " if words[0] in "aeiou" else "a ") + words


def _join(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]
