"""Rows of the report, and how two sets of numbers become one."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Status = Literal["pass", "fail", "missing", "unknown"]

# One comparison: what it is called, ours, the official numbers.
Comparison = tuple[str, Any, np.ndarray]


@dataclass(frozen=True)
class Row:
    """A line of the report.

    `status` "missing": the folder describes it but does not hold it. "unknown": the folder holds
    it but nothing here compares it. `error` is the largest absolute difference.
    """

    quantity: str
    status: Status
    error: float | None = None
    bound: float | None = None
    note: str = ""
    case: str = ""


def compare(quantity: str, pairs: Iterable[Comparison], bound: float) -> Row:
    """The largest difference over all `pairs`; the note names where it is, if it is too large.

    Another shape, NaN in either of the two, and no pair at all fail.
    """
    worst, where = -1.0, ""
    for name, ours, official in pairs:
        mine, golden = np.asarray(ours), np.asarray(official)
        if mine.shape != golden.shape:
            note = f"{name}: shape {mine.shape}, officially {golden.shape}"
            return Row(quantity, "fail", None, bound, note)
        difference = np.abs(mine.astype(np.float64) - golden.astype(np.float64))
        error = float(difference.max()) if difference.size else 0.0
        if math.isnan(error):
            return Row(quantity, "fail", error, bound, f"{name}: NaN")
        if error > worst:
            worst, where = error, name
    if worst < 0:
        return Row(quantity, "fail", None, bound, "nothing to compare")
    if worst > bound:
        return Row(quantity, "fail", worst, bound, where)
    return Row(quantity, "pass", worst, bound)


def compare_lists(quantity: str, ours: Sequence[Any], official: Sequence[Any]) -> Row:
    """Equality of two lists, the error being the number of entries that differ."""
    differing = [
        f"{mine!r}, officially {golden!r}"
        for mine, golden in zip(ours, official, strict=False)
        if mine != golden
    ]
    if len(ours) != len(official):
        differing.append(f"{len(ours)} entries, officially {len(official)}")
    note = differing[0] if differing else ""
    return Row(quantity, "fail" if differing else "pass", float(len(differing)), 0.0, note)


def compare_mappings(quantity: str, ours: dict[str, Any], official: dict[str, Any]) -> Row:
    """Equality of two mappings, the error being the number of names that differ."""
    wrong = sorted(k for k in ours.keys() | official.keys() if ours.get(k) != official.get(k))
    note = ""
    if wrong:
        first = wrong[0]
        note = f"{first}: {ours.get(first, 'none')}, officially {official.get(first, 'none')}"
    return Row(quantity, "fail" if wrong else "pass", float(len(wrong)), 0.0, note)
