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
    """Fields that describe edits; `resolve` completes them as `Domain.edit` does.

    `neutrals` go with the targets, `thresholds` with the presets and then the targets, `strengths`
    with these and then the directions; each is given once for all, once per edit in the same order,
    or not at all. A direction may have its strength with it, "age=3", and then takes none of these.

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
            EditsMismatch: a field is not given once, or once per edit; or a direction's strength is
                no number.
        """
        texts = len(self.presets) + len(self.targets)
        free = [name for name, strength in self._named_strengths() if strength is None]
        self._broadcast("neutral", self.neutrals, len(self.targets), f"{self.prefix}target")
        self._broadcast("strength", self.strengths, texts + len(free), "edit")
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
        named = self._named_strengths()
        free = sum(strength is None for _, strength in named)
        strengths = iter(self._broadcast("strength", self.strengths, len(edits) + free, "edit"))
        thresholds = self._broadcast("threshold", self.thresholds, len(edits), "edit")
        by_texts = [
            replace(
                edit,
                strength=edit.strength if (strength := next(strengths)) is None else strength,
                threshold=edit.threshold if threshold is None else threshold,
            )
            for edit, threshold in zip(edits, thresholds, strict=True)
        ]
        by_directions = []
        for name, own_strength in named:
            direction = domain.direction(name)
            strength = next(strengths) if own_strength is None else own_strength
            by_directions.append(
                direction.edit(direction.high / 2 if strength is None else strength)
            )
        return by_texts + by_directions

    def _named_strengths(self) -> list[tuple[str, float | None]]:
        """Return the directions' names and the strengths that they have with them."""
        return [self._split(direction) for direction in self.directions]

    def _split(self, direction: str) -> tuple[str, float | None]:
        name, separator, strength = direction.partition("=")
        try:
            return name, float(strength) if separator else None
        except ValueError:
            raise EditsMismatch(
                f"{self.prefix}direction is {direction[:50]!r}; NAME=STRENGTH is expected, such as "
                "age=3"
            ) from None

    def _broadcast(
        self, name: str, values: Sequence[Value], count: int, unit: str
    ) -> Sequence[Value | None]:
        """Return one value for each of `count`: given for each, given once for all, or None."""
        if len(values) == count:
            return values
        if not values:
            return [None] * count
        if len(values) == 1 and count:
            return list(values) * count
        raise EditsMismatch(
            f"{self.prefix}{name} is given {len(values)} times: once, or once per {unit}"
        )
