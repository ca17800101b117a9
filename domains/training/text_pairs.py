"""The text pairs of quality reports, and what each of them means."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from domains.training.attributes import AttributeTable


@dataclass(frozen=True)
class TextPair:
    """An edit's texts, and the values of an attribute that its target means."""

    table: AttributeTable
    target: str
    attribute: str
    values: tuple[str, ...]
    neutral: str = "a face"
    in_captions: bool = True  # False: no training caption has this wording

    @property
    def column(self) -> int:
        """The attribute's index."""
        return self.table.names.index(self.attribute)

    def matches(self, labels: Tensor) -> Tensor:
        """Return which rows of labels (N, attributes) have one of the values, bool (N,)."""
        attribute = self.table.attributes[self.column]
        values = torch.tensor([attribute.index(value) for value in self.values])
        return torch.isin(labels[:, self.column], values)
