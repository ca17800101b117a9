"""What to change: one `Edit`, the domain's defaults and its presets."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from styleclip_contract import limits
from styleclip_contract.errors import (
    EmptyText,
    InvalidInput,
    InvalidStrength,
    InvalidThreshold,
    SameTexts,
    ServerError,
    TextTooLong,
    UnknownPreset,
)


def _plain(text: str) -> str:
    """`text` as CLIP's tokenizer compares it: lower case, single spaces."""
    return " ".join(text.split()).casefold()


@dataclass(frozen=True)
class Edit:
    """One text edit: from what the picture shows to what it should show.

    `strength` (StyleCLIP's α) is in units of channel standard deviations; a negative one goes
    the opposite way. `threshold` (β, 0 to 1) keeps the channels whose relevance is below it: a
    higher one changes fewer things at once. What is wrong raises the error that the server
    would answer with: EmptyText, TextTooLong, SameTexts, InvalidStrength, InvalidThreshold.
    """

    neutral: str
    target: str
    strength: float
    threshold: float

    def __post_init__(self) -> None:
        for role, text in (("neutral", self.neutral), ("target", self.target)):
            if not text.strip():
                raise EmptyText(f"the {role} text is empty: say what the picture shows")
            if len(text) > limits.TEXT_CHARACTERS:
                raise TextTooLong(
                    f"the {role} text has {len(text)} characters, the limit is "
                    f"{limits.TEXT_CHARACTERS}: a few words work best"
                )
            try:
                text.encode()
            except UnicodeEncodeError as error:  # undecodable bytes of a command line
                raise InvalidInput(f"the {role} text is no valid Unicode") from error
        if _plain(self.neutral) == _plain(self.target):
            raise SameTexts(
                f"neutral and target text are both {self.target.strip()!r}: "
                "they must differ in what should change"
            )
        if not (math.isfinite(self.strength) and abs(self.strength) <= limits.STRENGTH):
            raise InvalidStrength(
                f"the strength is {self.strength}; a number from "
                f"{-limits.STRENGTH:g} to {limits.STRENGTH:g} is expected"
            )
        if not 0 <= self.threshold <= 1:
            raise InvalidThreshold(
                f"the threshold is {self.threshold}; a number from 0 to 1 is expected"
            )


@dataclass(frozen=True)
class Preset:
    """A ready-made edit of a domain under a title for people."""

    title: str
    edit: Edit


@dataclass(frozen=True)
class Domain:
    """What the loaded generator draws, with the edit that fits it when nothing else is said.

    `align`: photos are aligned first (false: they are face crops already). `style_channels`: the
    channels of each modulation, in the order of DELTA (empty when the server does not say).
    """

    name: str
    title: str
    neutral: str
    strength: float
    threshold: float
    presets: tuple[Preset, ...] = ()
    align: bool = False
    style_channels: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Domain:
        """The domain that a `domain.json` describes; ServerError when it does not."""
        try:
            content: Mapping[str, Any] = json.loads(text)
            defaults = content["defaults"]
            return cls(
                name=str(content["name"]),
                title=str(content["title"]),
                neutral=str(defaults["neutral"]),
                strength=float(defaults["strength"]),
                threshold=float(defaults["threshold"]),
                presets=tuple(
                    Preset(
                        str(preset["title"]),
                        Edit(
                            str(preset["neutral"]),
                            str(preset["target"]),
                            float(preset["strength"]),
                            float(preset["threshold"]),
                        ),
                    )
                    for preset in content.get("presets", ())
                ),
                align=bool(content.get("align", False)),
                style_channels=tuple(int(n) for n in content.get("style_channels", ())),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ServerError(f"the server's domain description is damaged: {error!r}") from error

    def edit(
        self,
        target: str,
        *,
        neutral: str | None = None,
        strength: float | None = None,
        threshold: float | None = None,
    ) -> Edit:
        """An edit towards `target`; what is left out comes from the domain's defaults."""
        return Edit(
            self.neutral if neutral is None else neutral,
            target,
            self.strength if strength is None else strength,
            self.threshold if threshold is None else threshold,
        )

    def preset(self, title: str) -> Edit:
        """The edit of the preset with this title (case does not count); else UnknownPreset."""
        for preset in self.presets:
            if _plain(preset.title) == _plain(title):
                return preset.edit
        known = ", ".join(repr(preset.title) for preset in self.presets) or "none"
        raise UnknownPreset(f"no preset {title!r} in domain {self.name}; it has: {known}")
