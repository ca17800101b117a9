"""Names of a state_dict."""

from __future__ import annotations

from collections.abc import Iterable


def count_modules(names: Iterable[str], prefix: str) -> int:
    """Count the modules `prefix`0, `prefix`1, … up to the highest number among `names`."""
    numbers = (name[len(prefix) :].split(".")[0] for name in names if name.startswith(prefix))
    return 1 + max((int(number) for number in numbers if number.isdecimal()), default=-1)
