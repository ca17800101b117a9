"""The labeled attributes of a domain: their values and how people name them.

A domain's `attributes.json` is the one table for its images, captions, training and quality report.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Value:
    """One value of an attribute.

    Attributes:
        name: its name in labels and reports.
        adjectives: words before a noun ("a bald man").
        phrases: words after "with" ("a man with a beard").
        weight: relative prior probability.
        variant: what draws it, in domains of drawings.
    """

    name: str
    adjectives: tuple[str, ...]
    phrases: tuple[str, ...]
    weight: float
    variant: str


@dataclass(frozen=True)
class Attribute:
    """An attribute and its values; those of a color attribute can be blended."""

    name: str
    values: tuple[Value, ...]
    is_color: bool

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the values."""
        return tuple(value.name for value in self.values)

    def index(self, value: str) -> int:
        """Return the index of the value of that name."""
        return self.names.index(value)


@dataclass(frozen=True)
class AttributeTable:
    """The attributes of a domain. Labels are value indices, int64 (N, attributes)."""

    attributes: tuple[Attribute, ...]

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(attribute.name for attribute in self.attributes)

    @cached_property
    def sizes(self) -> tuple[int, ...]:
        """The number of values of each attribute."""
        return tuple(len(attribute.values) for attribute in self.attributes)

    @cached_property
    def offsets(self) -> tuple[int, ...]:
        """Where each attribute begins among all values."""
        return (0, *accumulate(self.sizes[:-1]))

    @property
    def num_values(self) -> int:
        return sum(self.sizes)

    def __getitem__(self, name: str) -> Attribute:
        return self.attributes[self.names.index(name)]

    def one_hot(self, labels: Tensor) -> Tensor:
        """Convert labels to float32 (N, num_values); those of a negative label are all zero."""
        columns = [
            F.one_hot(labels[:, a].clamp(min=0), n) * (labels[:, a, None] >= 0)
            for a, n in enumerate(self.sizes)
        ]
        return torch.cat(columns, 1).float()

    def strongest(self, scores: Tensor) -> Tensor:
        """Convert scores of all values (N, num_values) to labels."""
        return torch.stack([group.argmax(1) for group in scores.split(self.sizes, 1)], 1)

    def encode(self, labels: Mapping[str, str]) -> list[int]:
        """Return the value indices of labels by name; -1 where a label is no value."""
        return [
            attribute.index(label) if (label := labels[attribute.name]) in attribute.names else -1
            for attribute in self.attributes
        ]


def read_attributes(path: Path) -> AttributeTable:
    """Read an attributes.json."""
    return AttributeTable(
        tuple(
            Attribute(
                attribute["name"],
                tuple(
                    Value(
                        value["name"],
                        tuple(value["adjectives"]),
                        tuple(value["phrases"]),
                        value.get("weight", 1.0),
                        value.get("variant", ""),
                    )
                    for value in attribute["values"]
                ),
                attribute.get("is_color", False),
            )
            for attribute in json.loads(path.read_text("utf-8"))
        )
    )
