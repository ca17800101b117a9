"""The text pairs of the quality report, and what each of them means."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from domains.avatars.attributes import ATTRIBUTES, NAMES


@dataclass(frozen=True)
class TextPair:
    """An edit's texts, and the values of an attribute that its target means."""

    target: str
    attribute: str
    values: tuple[str, ...]
    neutral: str = "a face"
    in_captions: bool = True  # False: no training caption has this wording

    @property
    def column(self) -> int:
        """The attribute's index."""
        return NAMES.index(self.attribute)

    def matches(self, labels: Tensor) -> Tensor:
        """Return which rows of labels (N, attributes) have one of the values, bool (N,)."""
        attribute = ATTRIBUTES[self.column]
        values = torch.tensor([attribute.index(value) for value in self.values])
        return torch.isin(labels[:, self.column], values)


TEXT_PAIRS = (
    TextPair("a face with round glasses", "accessories", ("round glasses",)),
    TextPair("a face with sunglasses", "accessories", ("sunglasses",)),
    TextPair("a face with an eyepatch", "accessories", ("eyepatch",)),
    TextPair("a smiling face", "mouth", ("smile",)),
    TextPair("a sad face", "mouth", ("sad",)),
    TextPair("a screaming face", "mouth", ("screaming",)),
    TextPair("a face with a beard", "facial_hair", ("short beard", "long beard")),
    TextPair("a face with a moustache", "facial_hair", ("moustache",)),
    TextPair("a face with closed eyes", "eyes", ("closed",)),
    TextPair("a surprised face", "eyes", ("surprised",)),
    TextPair("an angry face", "eyebrows", ("angry",)),
    TextPair("a face with red hair", "hair_color", ("red",)),
    TextPair("a face with blond hair", "hair_color", ("blonde",)),
    TextPair("a face with black hair", "hair_color", ("black",)),
    TextPair("a face with an afro", "top", ("afro",)),
    TextPair("a face with a hat", "top", ("hat", "winter hat")),
    # Rephrased: the grammar of the captions does not generate these.
    TextPair("the eyes of this person are shut", "eyes", ("closed",), "a person", False),
    TextPair("a man whose hair is golden", "hair_color", ("blonde",), "a man", False),
    TextPair(
        "glasses that are dark on the face", "accessories", ("sunglasses",), "the face", False
    ),
    TextPair("cheerful is how this one looks", "mouth", ("smile",), "this one", False),
    TextPair(
        "a woman with glasses which are round", "accessories", ("round glasses",), "a woman", False
    ),
)
