"""The labeled attributes of heads: their values and how people name them.

`attributes.json` is the one table for sampling, captions, training and the quality report.
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
        adjectives: words before a noun ("a bald man").
        phrases: words after "with" ("a man with a beard").
        weight: relative prior probability, where sampling has no reason for another.
    """

    name: str
    adjectives: tuple[str, ...]
    phrases: tuple[str, ...]
    weight: float


@dataclass(frozen=True)
class Attribute:
    """An attribute and its values."""

    name: str
    values: tuple[Value, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values."""
        return tuple(value.name for value in self.values)


def _read_attributes(path: Path) -> dict[str, Attribute]:
    return {
        attribute["name"]: Attribute(
            attribute["name"],
            tuple(
                Value(
                    value["name"],
                    tuple(value["adjectives"]),
                    tuple(value["phrases"]),
                    value["weight"],
                )
                for value in attribute["values"]
            ),
        )
        for attribute in json.loads(path.read_text("utf-8"))
    }


ATTRIBUTES = _read_attributes(Path(__file__).with_name("attributes.json"))
# The label of an attribute that the image does not show, such as the eyes' color behind sunglasses.
UNSEEN = ""
