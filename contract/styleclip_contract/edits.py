"""One edit, by two texts or by a named direction, validated when it is created: in the client and
again in the server."""

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
    UnknownDirection,
)


def normalize_text(text: str) -> str:
    """Fold case and whitespace, which CLIP's tokenizer ignores."""
    return " ".join(text.split()).casefold()


@dataclass(frozen=True)
class Edit:
    """A change from what the image shows to what it should show.

    It is either two texts with a threshold, or a named direction of the domain.

    Attributes:
        neutral: text that describes the image, such as "a face".
        target: text that describes the edited image, such as "a smiling face".
        strength: of texts StyleCLIP's α, in units of each channel's standard deviation, from
            -limits.STRENGTH to limits.STRENGTH; of a direction in its own unit, within the range
            that the domain gives. A negative value reverses the edit.
        threshold: StyleCLIP's β, 0 to 1. Only channels with at least this relevance change, so a
            higher threshold gives a more disentangled edit. A direction has none.
        direction: name of a direction, in place of the texts.

    Raises:
        EmptyText, TextTooLong, SameTexts, InvalidStrength, InvalidThreshold, UnknownDirection,
        InvalidInput: an argument is not accepted; the message says why.
    """

    neutral: str = ""
    target: str = ""
    strength: float = math.nan
    threshold: float = math.nan
    direction: str = ""

    def __post_init__(self) -> None:
        if self.direction:
            self._check_direction()
            return
        for role, text in (("neutral", self.neutral), ("target", self.target)):
            _check_text(role, text)
        if normalize_text(self.neutral) == normalize_text(self.target):
            raise SameTexts(
                f"neutral and target text are both {self.target.strip()!r}: "
                "they must differ in what should change"
            )
        check_strength(self.strength, -limits.STRENGTH, limits.STRENGTH, "the strength α")
        if not 0 <= self.threshold <= 1:  # NaN fails too
            raise InvalidThreshold(
                f"the threshold β is {self.threshold:g}; a number from 0 to 1 is expected, "
                "usually 0.05 to 0.3"
            )

    def _check_direction(self) -> None:
        if self.neutral.strip() or self.target.strip():
            raise InvalidInput(
                f"an edit is two texts or a direction, not both: leave out {self.direction!r} or "
                "the texts, or give two edits"
            )
        if len(self.direction) > limits.DIRECTION_CHARACTERS or not self.direction.isprintable():
            raise UnknownDirection(
                "the name of a direction is at most "
                f"{limits.DIRECTION_CHARACTERS} printable characters"
            )
        bound = limits.DIRECTION_STRENGTH
        check_strength(self.strength, -bound, bound, f"the strength of {self.direction}")
        # Whatever a request says of texts and threshold: equal edits are equal.
        for name, value in (("neutral", ""), ("target", ""), ("threshold", 0.0)):
            object.__setattr__(self, name, value)

    @property
    def label(self) -> str:
        """What the edit is, in a word or a text: the direction's name, or the target."""
        return self.direction or self.target

    def __str__(self) -> str:
        if self.direction:
            return f"{self.direction} ({self.strength:g})"
        return f"{self.neutral} → {self.target} (α {self.strength:g}, β {self.threshold:g})"


def check_strength(strength: float, low: float, high: float, label: str) -> None:
    """Check that a strength is from `low` to `high`.

    Args:
        label: names the strength in the message.

    Raises:
        InvalidStrength: it is outside, or NaN.
    """
    if not low <= strength <= high:
        raise InvalidStrength(
            f"{label} is {strength:g}; a number from {low:g} to {high:g} is expected"
        )


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
