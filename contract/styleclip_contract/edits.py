"""One text edit, checked when it is made: by the client before it is sent, by the server again."""

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


def normalise_text(text: str) -> str:
    """`text` as CLIP's tokenizer compares it: lower case, single spaces."""
    return " ".join(text.split()).casefold()


@dataclass(frozen=True)
class Edit:
    """One text edit: from what the image shows to what it should show.

    Args:
        neutral: text that describes the image, such as "a face".
        target: text that describes the edited image, such as "a smiling face".
        strength: StyleCLIP's α, in units of each channel's standard deviation, from
            -limits.STRENGTH to limits.STRENGTH; a negative one goes the opposite way.
        threshold: StyleCLIP's β, 0 to 1. Only channels whose relevance reaches it are changed: a
            higher one changes fewer things at once.

    Raises:
        EmptyText, TextTooLong, SameTexts, InvalidStrength, InvalidThreshold, InvalidInput: what
            was wrong and what is accepted.
    """

    neutral: str
    target: str
    strength: float
    threshold: float

    def __post_init__(self) -> None:
        for role, text in (("neutral", self.neutral), ("target", self.target)):
            _check_text(role, text)
        if normalise_text(self.neutral) == normalise_text(self.target):
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
        raise InvalidInput(f"the {role} text is no valid Unicode") from error
