"""A small grammar of captions over a domain's attributes, and what a caption claims.

A claim is an attribute with the values that a text allows. A caption's claims together are a bit
mask over all values, with all bits of the attributes that it does not mention, so that captions and
images can be matched in batches. The grammar does not generate the rephrased texts of the quality
reports.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from domains.training.attributes import AttributeTable

Claim = tuple[int, tuple[int, ...]]  # attribute, allowed values
# Words that describe several values: (attribute, values, adjectives, phrases).
SharedWords = tuple[str, tuple[str, ...], tuple[str, ...], tuple[str, ...]]


@dataclass(frozen=True)
class Phrase:
    """A phrase and its claim: `allowed` are indices of values of attribute `attribute`."""

    text: str
    is_adjective: bool
    attribute: int
    allowed: tuple[int, ...]


class Grammar:
    """Writes captions of a domain.

    Args:
        table: the attributes, with words for each value.
        nouns: what an image shows; those that stand several times are drawn more often.
        noun_claims: what some nouns claim, by noun and attribute: names of the allowed values.
        shared_words: words that describe several values.
        worn: attributes that follow "wearing".
    """

    def __init__(
        self,
        table: AttributeTable,
        nouns: Sequence[str],
        shared_words: Sequence[SharedWords],
        worn: Sequence[str],
        noun_claims: Mapping[str, Mapping[str, tuple[str, ...]]] | None = None,
    ) -> None:
        self.table, self.nouns = table, tuple(nouns)
        self.worn = {table.names.index(name) for name in worn}
        self.noun_claims = {
            noun: tuple(self._claim(name, values) for name, values in claims.items())
            for noun, claims in (noun_claims or {}).items()
        }
        self.all_values = (1 << table.num_values) - 1  # the mask that allows everything
        self.phrases = self._collect_phrases(shared_words)
        self.by_claim: dict[Claim, list[Phrase]] = {}
        for phrase in self.phrases:
            self.by_claim.setdefault((phrase.attribute, phrase.allowed), []).append(phrase)

    def _claim(self, attribute: str, values: Sequence[str]) -> Claim:
        a = self.table.names.index(attribute)
        return a, tuple(self.table.attributes[a].index(value) for value in values)

    def _collect_phrases(self, shared_words: Sequence[SharedWords]) -> tuple[Phrase, ...]:
        """Collect the phrases; a text of several values becomes one phrase that allows them all."""
        allowed: dict[tuple[str, bool, int], set[int]] = {}
        words: list[SharedWords] = [
            (attribute.name, (value.name,), value.adjectives, value.phrases)
            for attribute in self.table.attributes
            for value in attribute.values
        ]
        for name, values, adjectives, phrases in [*words, *shared_words]:
            a, indices = self._claim(name, values)
            for text in adjectives:
                allowed.setdefault((text, True, a), set()).update(indices)
            for text in phrases:
                allowed.setdefault((text, False, a), set()).update(indices)
        return tuple(Phrase(*key, tuple(sorted(values))) for key, values in allowed.items())

    def mask(self, claim: Claim) -> int:
        """Return the mask of the values that a claim allows, with all other attributes' bits."""
        attribute, allowed = claim
        start, size = self.table.offsets[attribute], self.table.sizes[attribute]
        mask = self.all_values & ~(((1 << size) - 1) << start)
        for value in allowed:
            mask |= 1 << (start + value)
        return mask

    def neutral_text(self, rng: random.Random) -> str:
        """Draw a text that claims nothing."""
        noun = rng.choice([noun for noun in self.nouns if noun not in self.noun_claims])
        return rng.choice((noun, _with_article(noun), _with_article(noun), f"the {noun}"))

    def draw_caption(self, rng: random.Random) -> tuple[str, int]:
        """Draw a caption with 0 to 4 claims, and those of its noun; return it and its mask."""
        count = rng.choices((0, 1, 2, 3, 4), (0.03, 0.42, 0.3, 0.17, 0.08))[0]
        if count == 0:
            return self.neutral_text(rng), self.all_values
        chosen: dict[int, Phrase] = {}  # one for each attribute
        for claim in rng.sample(list(self.by_claim), len(self.by_claim)):
            if claim[0] not in chosen and len(chosen) < count:
                chosen[claim[0]] = rng.choice(self.by_claim[claim])
        noun = rng.choice(
            [n for n in self.nouns if all(a not in chosen for a, _ in self.noun_claims.get(n, ()))]
        )
        mask = self.all_values
        for phrase in chosen.values():
            mask &= self.mask((phrase.attribute, phrase.allowed))
        text = self.write_sentence(list(chosen.values()), noun, rng)
        if noun in text:
            for claim in self.noun_claims.get(noun, ()):
                mask &= self.mask(claim)
        return text, mask

    def write_sentence(self, phrases: Sequence[Phrase], noun: str, rng: random.Random) -> str:
        """Write a caption that says all of `phrases`, in a random order and pattern."""
        phrases = rng.sample(list(phrases), len(phrases))
        if len(phrases) == 1 and rng.random() < 0.12:
            return phrases[0].text
        adjectives = [phrase.text for phrase in phrases if phrase.is_adjective]
        features = [phrase for phrase in phrases if not phrase.is_adjective]
        if not features:
            return _write_adjectives(noun, adjectives, rng)
        connector = self._draw_connector(features, rng)
        return _write_features(noun, adjectives, connector, [f.text for f in features], rng)

    def _draw_connector(self, features: Sequence[Phrase], rng: random.Random) -> str:
        connector = rng.choice(("with", "with", "with", "having", "who has"))
        worn = all(p.attribute in self.worn and not p.text.startswith("no ") for p in features)
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
    if " of a " in noun:  # "photo of a woman": the adjectives are the woman's
        outer, inner = noun.split(" of a ")
        return f"{_with_article(outer)} of {_with_article(' '.join([*adjectives, inner]))}"
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
