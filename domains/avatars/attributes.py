"""The labeled attributes of the avatars: their values, how to draw them, how people name them.

`attributes.json` is the one table for the renderer, the captions, training and the quality report.
Its values are variants and colors of the `avataaars` style (Pablo Stanley, free for personal and
commercial use) as the `dicebear-styles` package describes it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Value:
    """One value of an attribute.

    Attributes:
        name: its name in labels and reports.
        variant: the style's variant or color that draws it; "" draws nothing.
        adjectives: words before a noun ("a bald face").
        phrases: words after "with" ("a face with a beard").
        weight: relative prior probability.
    """

    name: str
    variant: str
    adjectives: tuple[str, ...]
    phrases: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class Attribute:
    """An attribute and its values; those of a color attribute can be blended."""

    name: str
    values: tuple[Value, ...]
    is_color: bool

    def index(self, value: str) -> int:
        """Return the index of the value of that name."""
        return [v.name for v in self.values].index(value)


def _read_attributes(path: Path) -> tuple[Attribute, ...]:
    return tuple(
        Attribute(
            attribute["name"],
            tuple(
                Value(
                    value["name"],
                    value["variant"],
                    tuple(value["adjectives"]),
                    tuple(value["phrases"]),
                    value.get("weight", 1.0),
                )
                for value in attribute["values"]
            ),
            attribute["is_color"],
        )
        for attribute in json.loads(path.read_text("utf-8"))
    )


ATTRIBUTES = _read_attributes(Path(__file__).with_name("attributes.json"))
NAMES = tuple(attribute.name for attribute in ATTRIBUTES)
SIZES = tuple(len(attribute.values) for attribute in ATTRIBUTES)  # values of each attribute
OFFSETS = tuple(sum(SIZES[:i]) for i in range(len(SIZES)))  # where each begins among all values
NUM_VALUES = sum(SIZES)
