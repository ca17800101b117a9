"""CLIP's byte-pair tokenizer, without torch.

Source: openai/CLIP `simple_tokenizer.py` (the rule) and its vocabulary file (MIT licence, shipped
beside this module); byte-pair encoding after Sennrich et al. 2016.
"""

from __future__ import annotations

import gzip
import html
from collections.abc import Sequence
from functools import cache, lru_cache
from importlib.resources import files
from itertools import pairwise

import ftfy
import numpy as np
import regex

from styleclip_contract.errors import TextTooLong
from styleclip_contract.wire import TOKENS_PER_TEXT

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
NUM_MERGES = 49152 - 256 - 2
END_OF_WORD = "</w>"
_WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


@cache
def _byte_symbols() -> dict[int, str]:
    """A printable character for each byte: itself where it prints, else one from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = {b: chr(b) for b in printable}
    rest = [b for b in range(256) if b not in symbols]
    return symbols | {b: chr(256 + i) for i, b in enumerate(rest)}


@cache
def _tables() -> tuple[dict[tuple[str, str], int], dict[str, int]]:
    """Merge ranks and token ids."""
    packed = files("styleclip_server.pipeline").joinpath(VOCABULARY).read_bytes()
    text = gzip.decompress(packed).decode()
    merges = [tuple(line.split()) for line in text.split("\n")[1 : NUM_MERGES + 1]]
    # Ids follow the order in which the official code lists the bytes: printable ones first.
    letters = list(_byte_symbols().values())
    tokens = letters + [c + END_OF_WORD for c in letters] + ["".join(m) for m in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    ranks = {(a, b): i for i, (a, b) in enumerate(merges)}
    return ranks, {token: i for i, token in enumerate(tokens)}


@lru_cache(maxsize=10_000)  # bounded: the words come from users
def _merge(word: str) -> tuple[str, ...]:
    """Merges a word's symbols, the lowest rank first, until no known pair is left."""
    ranks, _ = _tables()
    symbols = [*word[:-1], word[-1] + END_OF_WORD]
    while len(symbols) > 1:
        pairs = list(pairwise(symbols))
        best = min(pairs, key=lambda p: ranks.get(p, len(ranks)))
        if best not in ranks:
            break
        merged: list[str] = []
        i = 0
        while i < len(symbols):
            if tuple(symbols[i : i + 2]) == best:
                merged.append(symbols[i] + symbols[i + 1])
                i += 2
            else:
                merged.append(symbols[i])
                i += 1
        symbols = merged
    return tuple(symbols)


def encode(text: str) -> list[int]:
    """Token ids of `text`, without start and end."""
    _, ids = _tables()
    clean = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    clean = " ".join(clean.split()).lower()
    symbols = _byte_symbols()
    found: list[int] = []
    for word in _WORDS.findall(clean):
        if word in ids and word.startswith("<|"):
            found.append(ids[word])
            continue
        found += [ids[s] for s in _merge("".join(symbols[b] for b in word.encode()))]
    return found


def tokenize(texts: Sequence[str], truncate: bool = False) -> np.ndarray:
    """Texts → token ids int32 (N, 77): start, tokens, end, then zeros.

    Args:
        truncate: cut a long text before its end token, in place of refusing it.

    Raises:
        TextTooLong: a text needs more than 77 tokens.
    """
    _, ids = _tables()
    start, end = ids["<|startoftext|>"], ids["<|endoftext|>"]
    tokens = np.zeros((len(texts), TOKENS_PER_TEXT), np.int32)
    for row, text in zip(tokens, texts, strict=True):
        line = [start, *encode(text), end]
        if len(line) > TOKENS_PER_TEXT:
            if not truncate:
                raise TextTooLong(
                    f"a text of {len(line)} tokens; CLIP reads at most {TOKENS_PER_TEXT}, start "
                    f"and end included. Shorten the text that begins with {text[:40]!r}."
                )
            line = [*line[: TOKENS_PER_TEXT - 1], end]
        row[: len(line)] = line
    return tokens
