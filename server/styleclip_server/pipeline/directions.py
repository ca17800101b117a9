"""StyleCLIP's global directions: from two texts to an offset in StyleSpace.

Source: Patashnik et al. 2021, "StyleCLIP: Text-Driven Manipulation of StyleGAN Imagery", section
6; the official `global_directions/MapTS.py` (GetBoundary) and `manipulate.py`.

In shapes, D is the width of CLIP's joint space, S the number of StyleSpace channels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from styleclip_contract.edits import Edit
from styleclip_contract.errors import EmptyText, NoChannelLeft, SameTexts, TextTooLong
from styleclip_contract.wire import TOKENS_PER_TEXT
from styleclip_server.pipeline.named_directions import NamedDirections
from styleclip_server.pipeline.prompt_templates import TEMPLATES
from styleclip_server.pipeline.style_statistics import Statistics
from styleclip_server.pipeline.tokenizer import count_tokens, tokenize

# Class embeddings closer than this are equal within CLIP's float32 precision.
MIN_TEXT_DISTANCE = 1e-4

EncodeTokens = Callable[[np.ndarray], np.ndarray]  # tokens (N, 77) int32 → text features (N, D)


def class_embedding(features: np.ndarray) -> np.ndarray:
    """Average the features (templates, D) of one text to its class embedding (D,).

    Features are normalized before the mean, and the mean again.
    """
    normalized = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean = normalized.mean(0)
    return mean / np.linalg.norm(mean)


def class_embeddings(texts: Sequence[str], encode: EncodeTokens) -> list[np.ndarray]:
    """Embed texts: fill every prompt template with each of them, and encode all in one batch.

    Returns:
        A class embedding (D,) of unit length for each text.

    Raises:
        EmptyText: the tokenizer leaves nothing of a text.
        TextTooLong: a prompt exceeds CLIP's 77 tokens.
    """
    tokens = np.concatenate([_tokenize_prompts(text) for text in texts])
    features = encode(tokens).astype(np.float32)
    return [class_embedding(prompt_features) for prompt_features in np.split(features, len(texts))]


def _tokenize_prompts(text: str) -> np.ndarray:
    """Fill every prompt template with a text; returns tokens (templates, 77)."""
    count = count_tokens(text)
    if not count:
        raise EmptyText(
            f"the text {text[:40]!r} has no character that CLIP reads: say what the image shows, "
            "such as 'a face'"
        )
    prompts = [template.format(text) for template in TEMPLATES]
    try:
        return tokenize(prompts)
    except TextTooLong as error:
        longest = max(count_tokens(prompt) for prompt in prompts)
        room = TOKENS_PER_TEXT - 2 - (longest - count)  # besides the start and end tokens
        raise TextTooLong(
            f"the text has {count} tokens (words and parts of words); at most {room} fit. Shorten "
            f"the text that begins with {text.strip()[:40]!r}"
        ) from error


def text_direction(neutral: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Compute Δt (D,), the normalized difference of two class embeddings (D,).

    Raises:
        SameTexts: the embeddings are nearly equal.
    """
    difference = target - neutral
    length = np.linalg.norm(difference)
    if length < MIN_TEXT_DISTANCE:
        raise SameTexts(
            "the neutral and the target text mean the same to CLIP, so there is no direction "
            "between them; make the target say what should change"
        )
    return difference / length


def style_direction(
    statistics: Statistics, direction: np.ndarray, threshold: float
) -> tuple[np.ndarray, int]:
    """Compute Δs for α = 1.

    The relevance of each channel is fs3 Δt. Relevances below β in magnitude are set to zero, the
    others are scaled to a maximum of 1 and multiplied by the channel's standard deviation.

    Args:
        direction: Δt (D,) of unit length.
        threshold: β in [0, 1], compared in float32.

    Returns:
        The offset (S,) float32, and the number of channels that it changes.

    Raises:
        NoChannelLeft: β is above every relevance; the message gives the largest β that is not.
    """
    relevance = statistics.fs3 @ direction.astype(np.float32)
    magnitude = np.abs(relevance)
    relevant = magnitude >= np.float32(threshold)
    relevant &= magnitude > 0  # at β = 0, channels without a direction are not counted
    if not relevant.any():
        largest = math.floor(float(magnitude.max()) * 1000) / 1000
        raise NoChannelLeft(
            f"the threshold β = {threshold:g} removes every channel for these texts; "
            f"at most {largest:g} leaves some"
        )
    scaled = np.where(relevant, relevance, 0) / magnitude.max()
    offset = np.zeros_like(statistics.style_std)
    offset[statistics.rows] = scaled * statistics.style_std[statistics.rows]
    return offset, int(relevant.sum())


def style_offset(
    statistics: Statistics,
    edits: Sequence[Edit],
    embed: Callable[[str], np.ndarray],
    named: NamedDirections | None = None,
) -> tuple[np.ndarray, list[int]]:
    """Sum α Δs over edits that do not depend on the face.

    Args:
        embed: text → class embedding (D,).
        named: the domain's directions, for edits by name.

    Returns:
        The offset (S,) float32, and the number of channels that each edit changes.

    Raises:
        SameTexts, NoChannelLeft: see `text_direction` and `style_direction`.
    """
    total = np.zeros_like(statistics.style_std)
    counts = []
    for edit in edits:
        if edit.direction:
            assert named
            total += named.constant_offset(edit)
            counts.append(int(np.count_nonzero(named.offsets[edit.direction])))
            continue
        direction = text_direction(embed(edit.neutral), embed(edit.target))
        offset, count = style_direction(statistics, direction, edit.threshold)
        total += np.float32(edit.strength) * offset
        counts.append(count)
    return total, counts


def edit_offset(
    edits: Sequence[Edit],
    named: NamedDirections,
    w_plus: np.ndarray | None,
    sum_constant: Callable[[tuple[Edit, ...]], tuple[np.ndarray, list[int]]],
) -> tuple[np.ndarray, list[int]]:
    """Sum the offsets of all edits, those that follow the face included.

    Args:
        w_plus: the latent (L, 512).
        sum_constant: `style_offset` of the edits that do not depend on the face; it may be cached.

    Returns:
        The offset (S,) float32, and the number of channels that each of `edits` changes.

    Raises:
        InvalidLatent: an edit follows the face, and there is no latent, or one of another
            generator.
    """
    constant_edits = tuple(edit for edit in edits if not named.follows_face(edit))
    delta, constant_counts = sum_constant(constant_edits)
    if len(constant_edits) == len(edits):
        return delta, constant_counts
    delta, remaining, counts = delta.copy(), iter(constant_counts), []
    for edit in edits:
        if named.follows_face(edit):
            offset = named.face_offset(edit, w_plus)
            delta += offset
            counts.append(int(np.count_nonzero(offset)))
        else:
            counts.append(next(remaining))
    return delta, counts
