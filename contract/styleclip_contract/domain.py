"""What a domain is: the content of its `domain.json`, as server and client read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from styleclip_contract.edits import Edit, normalise_text
from styleclip_contract.errors import UnknownPreset


@dataclass(frozen=True)
class Preset:
    """A ready-made edit under a title for people."""

    title: str
    edit: Edit


@dataclass(frozen=True)
class Domain:
    """What the generator draws, with the edit parameters that fit it.

    Args:
        name: name of the folder and of the option `--domain`.
        title: one line for people.
        neutral, strength, threshold: defaults of an edit.
        presets: ready-made edits.
        align: photos are aligned first; false: they are face crops already.
        num_latents: rows L of W+; 0 when unknown.
        style_channels: channels of each modulation of StyleSpace, in the order of DELTA; empty
            when unknown.
    """

    name: str
    title: str
    neutral: str
    strength: float
    threshold: float
    presets: tuple[Preset, ...] = ()
    align: bool = False
    num_latents: int = 0
    style_channels: tuple[int, ...] = ()

    @classmethod
    def from_json(cls, text: str) -> Domain:
        """Reads the text of a `domain.json`.

        Raises:
            ValueError: it is no such text, or lacks a field.
        """
        try:
            content = json.loads(text)
            defaults = content["defaults"]
            return cls(
                name=str(content["name"]),
                title=str(content["title"]),
                neutral=str(defaults["neutral"]),
                strength=float(defaults["strength"]),
                threshold=float(defaults["threshold"]),
                presets=tuple(_preset(entry) for entry in content.get("presets", ())),
                align=bool(content.get("align", False)),
                num_latents=int(content.get("num_latents", 0)),
                style_channels=tuple(int(n) for n in content.get("style_channels", ())),
            )
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"the domain description is damaged: {error!r}") from error

    @property
    def style_size(self) -> int:
        """S, the number of channels over all modulations."""
        return sum(self.style_channels)

    def edit(
        self,
        target: str,
        *,
        neutral: str | None = None,
        strength: float | None = None,
        threshold: float | None = None,
    ) -> Edit:
        """Makes an edit towards `target`; what is left out comes from the domain's defaults."""
        return Edit(
            self.neutral if neutral is None else neutral,
            target,
            self.strength if strength is None else strength,
            self.threshold if threshold is None else threshold,
        )

    def preset(self, title: str) -> Edit:
        """Returns the edit of the preset with this title, in any case.

        Raises:
            UnknownPreset: there is none; names those that there are.
        """
        for preset in self.presets:
            if normalise_text(preset.title) == normalise_text(title):
                return preset.edit
        known = ", ".join(repr(preset.title) for preset in self.presets) or "none"
        raise UnknownPreset(f"no preset {title!r} in domain {self.name}; it has: {known}")


def _preset(entry: Mapping[str, Any]) -> Preset:
    edit = Edit(
        str(entry["neutral"]),
        str(entry["target"]),
        float(entry["strength"]),
        float(entry["threshold"]),
    )
    return Preset(str(entry["title"]), edit)
