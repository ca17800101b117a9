"""Runs the cases of a golden folder; reports files, arrays and fields that no case reads."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial

import torch

from styleclip_export.errors import VerificationError
from styleclip_export.verify import (
    alignment,
    clip,
    direction,
    encoder,
    features,
    fs3,
    generator,
    named_edits,
    tf_pickle,
)
from styleclip_export.verify.folder import Case, Folder
from styleclip_export.verify.report import Row

# Kind → function that yields its cases; the fast kinds first.
KINDS: dict[str, Callable[[Folder], Iterator[Case]]] = {
    "alignment": alignment.cases,
    "direction": direction.cases,
    "fs3": fs3.cases,
    "clip": clip.cases,
    "named_edits": named_edits.cases,
    "generator": generator.cases,
    "encoder": encoder.cases,
    "features": features.cases,
    "tf_pickle": tf_pickle.cases,
}
OTHER_FILES = ("README.md", "golden.json", "fill.py")  # of no case
CASE_QUANTITY = "the case"  # quantity of the row for a case that could not be completed


def find_cases(folder: Folder) -> list[Case]:
    """Find all cases of a golden folder, the fast ones first."""
    cases: list[Case] = []
    for kind, cases_of_kind in KINDS.items():
        try:
            cases.extend(cases_of_kind(folder))
        except Exception as error:  # a damaged index becomes a case that fails
            cases.append(Case(kind, (), partial(_raise, error)))
    return cases


def _raise(error: Exception) -> list[Row]:
    raise error


def run_case(folder: Folder, case: Case) -> list[Row]:
    """Run a case and return its rows; an exception becomes a failed row."""
    rows: list[Row] = []
    completed = True
    try:
        with torch.inference_mode():
            rows.extend(case.check())
    except Exception as error:  # golden data may be wrong in any way; other cases go on
        completed = False
        rows.append(Row(CASE_QUANTITY, "fail", note=_describe(error)))
    unread = folder.close_files()
    if completed:
        rows += unread
    gc.collect()  # free networks of 1 GB before the next case
    return [replace(row, case=case.name) for row in rows]


def _describe(error: Exception) -> str:
    if isinstance(error, VerificationError):
        return str(error)
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def unknown_files(folder: Folder, cases: Sequence[Case]) -> list[Row]:
    """Return a row for every file that belongs to no case."""
    known = {*OTHER_FILES, *(file for case in cases for file in case.files)}
    return [Row("file", "unknown", case=file) for file in folder.files() if file not in known]


def verify(
    folder: Folder,
    only: Sequence[str] = (),
    on_start: Callable[[Case], None] | None = None,
) -> Iterator[Row]:
    """Run the cases of a golden folder one after the other and yield their rows.

    Args:
        only: glob patterns of cases and of unknown files; empty for all.
        on_start: called with each case before it runs.

    Raises:
        VerificationError: nothing matches `only`, or a case needs weights and the folder's
            fill.py must not be executed.
    """
    selected, unknown = _select(folder, only)
    if any(case.needs_weights for case in selected):
        folder.rule.load()
    for case in selected:
        if on_start:
            on_start(case)
        yield from run_case(folder, case)
    yield from unknown


def _select(folder: Folder, only: Sequence[str]) -> tuple[list[Case], list[Row]]:
    """Select the cases and the unknown files that match one of the patterns."""
    cases = find_cases(folder)
    selected = [case for case in cases if _matches(case.name, only)]
    unknown = [row for row in unknown_files(folder, cases) if _matches(row.case, only)]
    if not selected and not unknown:
        names = ", ".join(case.name for case in cases) or "none"
        raise VerificationError(f"no case matches {', '.join(only) or 'anything'}; known: {names}")
    return selected, unknown


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)
