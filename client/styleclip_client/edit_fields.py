"""The edits of a form or a command line: lists of presets, texts, directions and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from styleclip_contract.domain import Domain
from styleclip_contract.edits import Edit
from styleclip_contract.errors import EditsMismatch

Value = TypeVar("Value")


@dataclass(frozen=True)
class EditFields:
    """Fields that describe edits; `resolve` completes them with the domain's defaults.

    `neutrals` go with the targets, `thresholds` with the presets and then the targets, `strengths`
    with these and then the directions; each is given once for all, once per edit in the same order,
    or not at all.

    Attributes:
        prefix: of the fields' names in messages, "--" for a command line.
    """

    targets: Sequence[str] = ()
    neutrals: Sequence[str] = ()
    strengths: Sequence[float] = ()
    thresholds: Sequence[float] = ()
    presets: Sequence[str] = ()
    directions: Sequence[str] = ()
    prefix: str = ""

    def check(self) -> None:
        """Check what can be checked without the domain.

        Raises:
            EditsMismatch: a field is not given once, or once per edit.
        """
        texts = len(self.presets) + len(self.targets)
        self._broadcast("neutral", self.neutrals, len(self.targets), f"{self.prefix}target")
        self._broadcast("strength", self.strengths, texts + len(self.directions), "edit")
        self._broadcast("threshold", self.thresholds, texts, "edit")

    def resolve(self, domain: Domain) -> list[Edit]:
        """Return the edits: presets first, then targets, then directions.

        Raises:
            EditsMismatch: as `check`.
            InvalidInput: a preset or a direction is unknown, or a value is not accepted.
        """
        self.check()
        neutrals = self._broadcast(
            "neutral", self.neutrals, len(self.targets), f"{self.prefix}target"
        )
        edits = [domain.preset(title) for title in self.presets]
        edits += [
            domain.edit(target, neutral=neutral)
            for target, neutral in zip(self.targets, neutrals, strict=True)
        ]
        directions = [domain.direction(name) for name in self.directions]
        strengths = self._broadcast(
            "strength", self.strengths, len(edits) + len(directions), "edit"
        )
        thresholds = self._broadcast("threshold", self.thresholds, len(edits), "edit")
        by_texts = [
            replace(
                edit,
                strength=edit.strength if strength is None else strength,
                threshold=edit.threshold if threshold is None else threshold,
            )
            for edit, strength, threshold in zip(edits, strengths, thresholds, strict=False)
        ]
        by_directions = [
            direction.edit(direction.high / 2 if strength is None else strength)
            for direction, strength in zip(directions, strengths[len(edits) :], strict=True)
        ]
        return by_texts + by_directions

    def _broadcast(
        self, name: str, values: Sequence[Value], count: int, what: str
    ) -> Sequence[Value | None]:
        """Return one value for each of `count`: given for each, given once for all, or None."""
        if len(values) == count:
            return values
        if not values:
            return [None] * count
        if len(values) == 1 and count:
            return list(values) * count
        raise EditsMismatch(
            f"{self.prefix}{name} is given {len(values)} times: once, or once per {what}"
        )
