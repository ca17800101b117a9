"""Rows of the verification report, and the comparisons that produce them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

Status = Literal["pass", "fail", "missing", "unknown"]

Comparison = tuple[str, Any, Any]  # name, our numbers, the official numbers


@dataclass(frozen=True)
class Row:
    """A line of the report.

    Attributes:
        quantity: what was compared.
        status: "missing" if the golden folder describes it but does not contain it; "unknown" if
            the folder contains it but no case compares it.
        error: the largest absolute difference.
        bound: the largest accepted difference.
        note: where it fails, or why it was not compared.
        case: the name of the case.
    """

    quantity: str
    status: Status
    error: float | None = None
    bound: float | None = None
    note: str = ""
    case: str = ""


def compare(quantity: str, comparisons: Iterable[Comparison], bound: float) -> Row:
    """Compare arrays by their largest absolute difference.

    A different shape, NaN in either array, and an empty iterable fail. The note names the worst
    comparison if it exceeds the bound.
    """
    worst, worst_name = -1.0, ""
    for name, ours, official in comparisons:
        actual, expected = np.asarray(ours), np.asarray(official)
        if actual.shape != expected.shape:
            note = f"{name}: shape {actual.shape}, officially {expected.shape}"
            return Row(quantity, "fail", None, bound, note)
        difference = np.abs(actual.astype(np.float64) - expected.astype(np.float64))
        error = float(difference.max()) if difference.size else 0.0
        if math.isnan(error):
            return Row(quantity, "fail", error, bound, f"{name}: NaN")
        if error > worst:
            worst, worst_name = error, name
    if worst < 0:
        return Row(quantity, "fail", None, bound, "nothing to compare")
    if worst > bound:
        return Row(quantity, "fail", worst, bound, worst_name)
    return Row(quantity, "pass", worst, bound)


def compare_lists(quantity: str, ours: Sequence[Any], official: Sequence[Any]) -> Row:
    """Compare two lists for equality; the error is the number of different entries."""
    differences = [
        f"{actual!r}, officially {expected!r}"
        for actual, expected in zip(ours, official, strict=False)
        if actual != expected
    ]
    if len(ours) != len(official):
        differences.append(f"{len(ours)} entries, officially {len(official)}")
    return count_failures(quantity, differences)


def compare_mappings(quantity: str, ours: dict[str, Any], official: dict[str, Any]) -> Row:
    """Compare two mappings for equality; the error is the number of different keys."""
    differences = [
        f"{key}: {ours.get(key, 'none')}, officially {official.get(key, 'none')}"
        for key in sorted(ours.keys() | official.keys())
        if ours.get(key) != official.get(key)
    ]
    return count_failures(quantity, differences)


def count_failures(quantity: str, failures: Sequence[str]) -> Row:
    """Return a row that fails if there are failures, and notes the first of them."""
    status: Status = "fail" if failures else "pass"
    return Row(quantity, status, float(len(failures)), 0.0, failures[0] if failures else "")
