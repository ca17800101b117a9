"""The attributes of the avatars.

Their values are variants and colors of the `avataaars` style (Pablo Stanley, free for personal and
commercial use) as the `dicebear-styles` package describes it.
"""

from __future__ import annotations

from pathlib import Path

from domains.training.attributes import read_attributes

TABLE = read_attributes(Path(__file__).with_name("attributes.json"))
ATTRIBUTES, NAMES, SIZES = TABLE.attributes, TABLE.names, TABLE.sizes
