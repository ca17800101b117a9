"""The captions of CLIP's training as arrays: drawn, tokenized and filtered once, then on a device.

Tokens are ids of a local vocabulary: 0 is padding, 1 every token that no caption has, and the
others count the tokens of the captions in CLIP's order.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from domains.training.grammar import Claim, Grammar
from styleclip_server.pipeline.prompt_templates import TEMPLATES

NUM_CAPTIONS = 240_000
NUM_PAIRS = 120_000
LENGTH = 32  # tokens; longer captions are dropped
CLIP_VOCABULARY_SIZE = 49_408
UNKNOWN = 1


def local_ids(vocabulary: np.ndarray) -> np.ndarray:
    """Return the local id of each of CLIP's tokens, int32 (49408,).

    Args:
        vocabulary: the tokens of the captions in ascending order, beginning with 0.
    """
    ids = np.full(CLIP_VOCABULARY_SIZE, UNKNOWN, np.int32)
    ids[vocabulary] = np.where(vocabulary == 0, 0, np.arange(len(vocabulary)) + 1)
    return ids


def local_vocabulary_size(vocabulary: np.ndarray) -> int:
    return len(vocabulary) + 2


def read_vocabulary(path: Path) -> np.ndarray:
    """Read the vocabulary of the captions in `path`."""
    with np.load(path) as data:
        return data["vocabulary"]


def read_vocabulary_size(path: Path) -> int:
    """Read the size of the local vocabulary of the captions in `path`."""
    return local_vocabulary_size(read_vocabulary(path))


def build_captions(
    path: Path,
    grammar: Grammar,
    pair_nouns: Sequence[str],
    num_captions: int = NUM_CAPTIONS,
    num_pairs: int = NUM_PAIRS,
) -> None:
    """Draw captions with their claims, and text pairs that name a change, into an npz file."""
    from styleclip_server.pipeline.tokenizer import tokenize  # training itself needs no ftfy

    rng = random.Random(1)
    captions, masks = [], []
    while len(captions) < num_captions:
        text, mask = grammar.draw_caption(rng)
        captions += _insert_into_template([text], rng)
        masks.append(mask)
    neutrals, targets, claims, sources = [], [], [], []
    all_claims = list(grammar.by_claim)
    for _ in range(num_pairs):
        claim = rng.choice(all_claims)
        neutral, target, source = _draw_pair(grammar, claim, rng.choice(pair_nouns), rng)
        neutral, target = _insert_into_template([neutral, target], rng)
        neutrals.append(neutral)
        targets.append(target)
        claims.append(claim)
        sources.append(source)
    tokens = np.stack([tokenize([text])[0] for text in captions + neutrals + targets])
    is_short = (tokens[:, LENGTH:] == 0).all(1)
    vocabulary = np.unique(np.concatenate([[0], tokens[is_short].ravel()]))
    ids = local_ids(vocabulary)[tokens[:, :LENGTH]].astype(np.int16)
    n, m = num_captions, num_captions + num_pairs
    pair_is_short = is_short[n:m] & is_short[m:]
    allowed = np.zeros((num_pairs, grammar.table.num_values), bool)
    for row, (a, values) in zip(allowed, claims, strict=True):
        row[np.add(values, grammar.table.offsets[a])] = True
    temporary = path.with_suffix(".tmp.npz")
    np.savez_compressed(
        temporary,
        vocabulary=vocabulary,
        captions=ids[:n][is_short[:n]],
        claims=_unpack_masks(masks, grammar.table.num_values)[is_short[:n]],
        neutral=ids[n:m][pair_is_short],
        target=ids[m:][pair_is_short],
        attribute=np.array([attribute for attribute, _ in claims], np.int8)[pair_is_short],
        source=np.array(sources, np.int8)[pair_is_short],
        allowed=allowed[pair_is_short],
    )
    temporary.rename(path)


def _insert_into_template(texts: list[str], rng: random.Random) -> list[str]:
    template = rng.choice(TEMPLATES) if rng.random() < 0.6 else "{}"
    return [template.format(text) for text in texts]


def _unpack_masks(masks: Sequence[int], size: int) -> np.ndarray:
    """Convert bit masks to bool (n, size), the lowest bit first."""
    octets = b"".join(mask.to_bytes(-(-size // 8), "little") for mask in masks)
    packed = np.frombuffer(octets, np.uint8).reshape(len(masks), -1)
    return np.unpackbits(packed, axis=1, count=size, bitorder="little").astype(bool)


def _draw_pair(
    grammar: Grammar, claim: Claim, noun: str, rng: random.Random
) -> tuple[str, str, int]:
    """Draw a neutral and a target text.

    Returns:
        The neutral text, which claims nothing or another value of the attribute; the target text;
        and the value that the neutral text claims, or -1.
    """
    attribute, allowed = claim
    target = grammar.write_sentence([rng.choice(grammar.by_claim[claim])], noun, rng)
    neutral = rng.choice((noun, f"a {noun}", f"a {noun}", grammar.neutral_text(rng)))
    others = [
        (a, values)
        for a, values in grammar.by_claim
        if a == attribute and len(values) == 1 and values[0] not in allowed
    ]
    if rng.random() >= 0.3 or not others:
        return neutral, target, -1
    source = rng.choice(others)
    phrase = rng.choice(grammar.by_claim[source])
    return grammar.write_sentence([phrase], noun, rng), target, source[1][0]


class CaptionData:
    """The captions of `build_captions` on a device.

    Attributes:
        captions: int16 (n, LENGTH), tokens.
        claims: bool (n, values), what each caption allows.
        neutral, target: int16 (m, LENGTH), tokens of the text pairs.
        attribute: int64 (m,), the attribute that a pair changes.
        allowed: bool (m, values), which of the attribute's values the target allows.
        source: int64 (m,), the value that the neutral text claims, or -1.
        vocabulary_size: of the local vocabulary.
    """

    def __init__(self, path: Path, device: torch.device) -> None:
        with np.load(path) as data:
            self.vocabulary_size = local_vocabulary_size(data["vocabulary"])
            arrays = {
                name: torch.from_numpy(data[name]).to(device)
                for name in data.files
                if name != "vocabulary"
            }
        self.captions, self.claims = arrays["captions"], arrays["claims"]
        self.neutral, self.target = arrays["neutral"], arrays["target"]
        self.attribute, self.source = arrays["attribute"].long(), arrays["source"].long()
        self.allowed = arrays["allowed"]


def drop_words(tokens: Tensor) -> Tensor:
    """Replace 2% of the words of tokens (N, LENGTH) by UNKNOWN; return int64."""
    tokens = tokens.long()
    is_word = (tokens > UNKNOWN) & (tokens < tokens.max())
    is_word[:, 0] = False
    dropped = is_word & (torch.rand(tokens.shape, device=tokens.device) < 0.02)
    return torch.where(dropped, UNKNOWN, tokens)
