"""StyleCLIP's global directions: from two texts to an offset in StyleSpace.

Source: Patashnik et al. 2021, "StyleCLIP: Text-Driven Manipulation of StyleGAN Imagery", section
6; the official `global_directions/MapTS.py` (GetBoundary) and `manipulate.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from styleclip_contract import limits
from styleclip_contract.edits import Edit
from styleclip_contract.errors import (
    EditsMismatch,
    EmptyText,
    InvalidLatent,
    NoChannelLeft,
    SameTexts,
)
from styleclip_server.pipeline.prompt_templates import TEMPLATES
from styleclip_server.pipeline.style_statistics import Statistics
from styleclip_server.pipeline.tokenizer import tokenize

# Two texts whose class embeddings are closer than this mean the same to CLIP in float32.
SAME = 1e-4

TextEncoder = Callable[[np.ndarray], np.ndarray]


def check(neutral: Sequence[bytes], target: Sequence[bytes], strength: Sequence[float],
          threshold: Sequence[float]) -> list[Edit]:  # fmt: skip
    """Turns a request's rows into edits.

    Raises:
        EditsMismatch: the numbers of entries differ, or there are too many.
        EmptyText, TextTooLong, SameTexts, InvalidStrength, InvalidThreshold: see `Edit`.
    """
    counts = [len(neutral), len(target), len(strength), len(threshold)]
    if len(set(counts)) != 1 or not 1 <= counts[0] <= limits.EDITS:
        raise EditsMismatch(
            "NEUTRAL, TARGET, STRENGTH and THRESHOLD need one entry for each edit, "
            f"1 to {limits.EDITS}; they have {', '.join(map(str, counts))}"
        )
    return [
        Edit(_decode(n, "neutral"), _decode(t, "target"), float(a), float(b))
        for n, t, a, b in zip(neutral, target, strength, threshold, strict=True)
    ]


def check_latent(w_plus: np.ndarray | None) -> None:
    """Raises InvalidLatent for a W+ (L, 512) that holds NaN or infinity."""
    if w_plus is not None and not np.isfinite(w_plus).all():
        raise InvalidLatent("W_PLUS holds NaN or infinity; send what `invert` gave")


def _decode(raw: bytes, role: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise EmptyText(f"the {role} text is not UTF-8") from None


def class_embedding(features: np.ndarray) -> np.ndarray:
    """Text features (templates, D) of one text → its class embedding (D,), of unit length."""
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    mean = unit.mean(0)
    return mean / np.linalg.norm(mean)


def class_embeddings(texts: Sequence[str], encode: TextEncoder) -> list[np.ndarray]:
    """The class embeddings of `texts`; `encode`: tokens (N, 77) int32 → features (N, D).

    Raises:
        TextTooLong: a text does not fit into CLIP's 77 tokens in every template.
    """
    prompts = [template.format(text) for text in texts for template in TEMPLATES]
    features = encode(tokenize(prompts)).astype(np.float32)
    return [class_embedding(part) for part in np.split(features, len(texts))]


def text_direction(neutral: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Δt: (target - neutral) / its length, for two class embeddings (D,).

    Raises:
        SameTexts: the two hardly differ.
    """
    delta = target - neutral
    length = np.linalg.norm(delta)
    if length < SAME:
        raise SameTexts(
            "the neutral and the target text mean the same to CLIP, so there is no direction "
            "between them; make the target say what should change"
        )
    return delta / length


def style_direction(
    statistics: Statistics, direction: np.ndarray, threshold: float
) -> tuple[np.ndarray, int]:
    """Δs for α = 1: relevance = fs3 Δt; |relevance| < β is zeroed; the rest is scaled to a
    largest magnitude of 1 and multiplied by the channel's deviation.

    Args:
        direction: Δt (D,) of unit length.
        threshold: β in [0, 1], compared in float32.

    Returns:
        offset (S,) float32, and the number of channels kept.

    Raises:
        NoChannelLeft: β is above every relevance; says the largest β that leaves a channel.
    """
    relevance = statistics.fs3 @ direction.astype(np.float32)
    magnitude = np.abs(relevance)
    kept = magnitude >= np.float32(threshold)
    kept &= magnitude > 0  # channels without a direction stay at β = 0 too
    if not kept.any():
        largest = math.floor(float(magnitude.max()) * 1000) / 1000
        raise NoChannelLeft(
            f"the threshold β = {threshold:g} removes every channel for these texts; "
            f"at most {largest:g} leaves some"
        )
    scaled = np.where(kept, relevance, 0) / magnitude.max()
    offset = np.zeros_like(statistics.style_std)
    offset[statistics.rows] = scaled * statistics.style_std[statistics.rows]
    return offset, int(kept.sum())


def delta(
    statistics: Statistics, edits: Sequence[Edit], embeddings: Callable[[str], np.ndarray]
) -> tuple[np.ndarray, list[int]]:
    """The sum over the edits of α Δs: offset (S,) float32, and the channels that each moves."""
    total = np.zeros_like(statistics.style_std)
    counts = []
    for edit in edits:
        direction = text_direction(embeddings(edit.neutral), embeddings(edit.target))
        offset, kept = style_direction(statistics, direction, edit.threshold)
        total += np.float32(edit.strength) * offset
        counts.append(kept)
    return total, counts
