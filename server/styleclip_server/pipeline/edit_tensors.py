"""A request's tensors as edits, checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from styleclip_contract import limits
from styleclip_contract.edits import Edit
from styleclip_contract.errors import EditsMismatch, EmptyText, InvalidLatent


def parse_edits(neutral: Sequence[bytes], target: Sequence[bytes], strength: Sequence[float],
                threshold: Sequence[float],
                direction: Sequence[bytes] | None = None) -> list[Edit]:  # fmt: skip
    """Convert a request's tensors, one entry for each edit, to edits.

    Args:
        neutral, target: UTF-8 texts.
        strength: α.
        threshold: β.
        direction: names of directions, empty where the edit is its texts; None: all are texts.

    Raises:
        EditsMismatch: the numbers of entries differ or exceed `limits.EDITS`.
        InvalidInput: a subclass of it, see `Edit`.
    """
    counts = [len(neutral), len(target), len(strength), len(threshold)]
    if direction is None:
        direction = [b""] * len(neutral)
    else:
        counts.append(len(direction))
    if len(set(counts)) != 1 or not 1 <= counts[0] <= limits.EDITS:
        raise EditsMismatch(
            "NEUTRAL, TARGET, STRENGTH, THRESHOLD and DIRECTION need one entry for each edit, "
            f"1 to {limits.EDITS}; they have {', '.join(map(str, counts))}"
        )
    return [
        Edit(
            _decode_text(n, "neutral"),
            _decode_text(t, "target"),
            float(str(a)) if d else float(a),  # the shortest decimal: 0.3 is within 0 to 0.3
            float(b),
            _decode_text(d, "direction"),
        )
        for n, t, a, b, d in zip(neutral, target, strength, threshold, direction, strict=True)
    ]


def check_latent(w_plus: np.ndarray | None) -> None:
    """Check that a latent W+ (L, 512) is finite; None passes.

    Raises:
        InvalidLatent: it contains NaN or infinity.
    """
    if w_plus is not None and not np.isfinite(w_plus).all():
        raise InvalidLatent("W_PLUS contains NaN or infinity; send the output of `invert`")


def _decode_text(raw: bytes, role: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise EmptyText(f"the {role} text is not UTF-8") from None
