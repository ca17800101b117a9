"""The attributes of heads."""

from __future__ import annotations

from pathlib import Path

from domains.training.attributes import read_attributes

TABLE = read_attributes(Path(__file__).with_name("attributes.json"))
# The label of an attribute that the image does not show, such as the eyes' color behind sunglasses.
UNSEEN = ""
