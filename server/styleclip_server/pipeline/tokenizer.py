"""CLIP's byte-pair tokenizer, without torch.

Source: openai/CLIP `simple_tokenizer.py` and its vocabulary file (MIT license, shipped beside this
module); byte-pair encoding: Sennrich et al. 2016.
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

_VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"
_NUM_MERGES = 49152 - 256 - 2
_END_OF_WORD = "</w>"
_WORDS = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)


@cache
def _byte_symbols() -> dict[int, str]:
    """Map each byte to a printable character: its own, or one from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = {b: chr(b) for b in printable}
    unprintable = [b for b in range(256) if b not in symbols]
    return symbols | {b: chr(256 + i) for i, b in enumerate(unprintable)}


@cache
def _load_vocabulary() -> tuple[dict[tuple[str, str], int], dict[str, int]]:
    """Load the merge ranks and the token ids."""
    compressed = files("styleclip_server.pipeline").joinpath(_VOCABULARY).read_bytes()
    text = gzip.decompress(compressed).decode()
    merges = [tuple(line.split()) for line in text.split("\n")[1 : _NUM_MERGES + 1]]
    # Token ids start with the bytes in the order of the official code: printable ones first.
    letters = list(_byte_symbols().values())
    tokens = letters + [c + _END_OF_WORD for c in letters] + ["".join(m) for m in merges]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    ranks = {(a, b): i for i, (a, b) in enumerate(merges)}
    return ranks, {token: i for i, token in enumerate(tokens)}


@lru_cache(maxsize=10_000)  # bounded, since the words come from users
def _merge_symbols(word: str) -> tuple[str, ...]:
    """Merge a word's symbols, the pair of lowest rank first, until no pair has a rank."""
    ranks, _ = _load_vocabulary()
    symbols = [*word[:-1], word[-1] + _END_OF_WORD]
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
    """Encode a text to token ids, without start and end tokens."""
    _, ids = _load_vocabulary()
    clean = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    clean = " ".join(clean.split()).lower()
    symbols = _byte_symbols()
    tokens: list[int] = []
    for word in _WORDS.findall(clean):
        if word in ids and word.startswith("<|"):
            tokens.append(ids[word])
            continue
        tokens += [ids[s] for s in _merge_symbols("".join(symbols[b] for b in word.encode()))]
    return tokens


def count_tokens(text: str) -> int:
    """Return the number of tokens that mean something: 0 for a text such as `&nbsp;`.

    Start and end tokens are not counted, nor any that the text spells out.
    """
    _, ids = _load_vocabulary()
    marks = {ids["<|startoftext|>"], ids["<|endoftext|>"]}
    return sum(token not in marks for token in encode(text))


def tokenize(texts: Sequence[str], truncate: bool = False) -> np.ndarray:
    """Tokenize texts.

    Args:
        truncate: shorten a long text, keeping its end token, instead of raising TextTooLong.

    Returns:
        Token ids (N, 77) int32: start, tokens, end, then zeros.

    Raises:
        TextTooLong: a text has more than 77 tokens.
    """
    _, ids = _load_vocabulary()
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
