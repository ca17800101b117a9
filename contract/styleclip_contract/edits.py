"""One text edit, validated when it is created: in the client and again in the server."""

from __future__ import annotations

import math
from dataclasses import dataclass

from styleclip_contract import limits
from styleclip_contract.errors import (
    EmptyText,
    InvalidInput,
    InvalidStrength,
    InvalidThreshold,
    SameTexts,
    TextTooLong,
)


def normalize_text(text: str) -> str:
    """Fold case and whitespace, which CLIP's tokenizer ignores."""
    return " ".join(text.split()).casefold()


@dataclass(frozen=True)
class Edit:
    """A change from what the image shows to what it should show.

    Args:
        neutral: text that describes the image, such as "a face".
        target: text that describes the edited image, such as "a smiling face".
        strength: StyleCLIP's α, in units of each channel's standard deviation, from
            -limits.STRENGTH to limits.STRENGTH; a negative value reverses the edit.
        threshold: StyleCLIP's β, 0 to 1. Only channels with at least this relevance change, so a
            higher threshold gives a more disentangled edit.

    Raises:
        EmptyText, TextTooLong, SameTexts, InvalidStrength, InvalidThreshold, InvalidInput: an
            argument is not accepted; the message says why.
    """

    neutral: str
    target: str
    strength: float
    threshold: float

    def __post_init__(self) -> None:
        for role, text in (("neutral", self.neutral), ("target", self.target)):
            _check_text(role, text)
        if normalize_text(self.neutral) == normalize_text(self.target):
            raise SameTexts(
                f"neutral and target text are both {self.target.strip()!r}: "
                "they must differ in what should change"
            )
        if not (math.isfinite(self.strength) and abs(self.strength) <= limits.STRENGTH):
            raise InvalidStrength(
                f"the strength α is {self.strength:g}; a number from "
                f"{-limits.STRENGTH:g} to {limits.STRENGTH:g} is expected"
            )
        if not 0 <= self.threshold <= 1:  # NaN fails too
            raise InvalidThreshold(
                f"the threshold β is {self.threshold:g}; a number from 0 to 1 is expected, "
                "usually 0.05 to 0.3"
            )

    def __str__(self) -> str:
        return f"{self.neutral} → {self.target} (α {self.strength:g}, β {self.threshold:g})"


def _check_text(role: str, text: str) -> None:
    if not text.strip():
        raise EmptyText(f"the {role} text is empty: say what the image shows, such as 'a face'")
    if len(text) > limits.TEXT_CHARACTERS:
        raise TextTooLong(
            f"the {role} text has {len(text)} characters; at most {limits.TEXT_CHARACTERS} are "
            "accepted: a few words work best"
        )
    try:
        text.encode()
    except UnicodeEncodeError as error:  # undecodable bytes of a command line
        raise InvalidInput(f"the {role} text is not valid Unicode") from error
