"""The text pairs of quality reports, and what each of them means."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from domains.training.attributes import AttributeTable
from styleclip_contract.domain import Domain
from styleclip_contract.edits import Edit


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


def find_edit(domain: Domain, pair: TextPair) -> Edit:
    """Return the edit of a pair with the strength and threshold of its preset, if it has one."""
    presets = (preset.edit for preset in domain.presets)
    same = (edit for edit in presets if (edit.neutral, edit.target) == (pair.neutral, pair.target))
    return next(same, Edit(pair.neutral, pair.target, domain.strength, domain.threshold))
