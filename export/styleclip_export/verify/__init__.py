"""Proof that the project computes what the official code computes, on a golden folder.

Each module beside is one kind of case; it finds its files by their names and takes every size
from them. Files, arrays and fields that none of them knows are reported.
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial

from styleclip_export.errors import VerificationError
from styleclip_export.verify.folder import Case, Folder
from styleclip_export.verify.report import Row

KINDS = ("alignment", "direction", "fs3", "clip", "generator", "encoder", "tf_pickle")
ABOUT = ("README.md", "golden.json", "fill.py")  # read by people, or by `Folder`


def find_cases(folder: Folder) -> list[Case]:
    """Every case of the folder that is known, the quick ones first."""
    found: list[Case] = []
    for kind in KINDS:
        module = importlib.import_module(f"{__name__}.{kind}")
        try:
            found.extend(module.cases(folder))
        except Exception as error:  # an index that is damaged; reported as a case that fails
            found.append(Case(kind, (), partial(_fail, error)))
    return found


def _fail(error: Exception) -> list[Row]:
    raise error


def run_case(folder: Folder, case: Case) -> list[Row]:
    """The rows of a case; whatever goes wrong in it becomes a failed row."""
    import torch

    rows: list[Row] = []
    try:
        with torch.inference_mode():
            rows.extend(case.check())
    except Exception as error:  # golden data may be wrong in any way, and other cases go on
        note = str(error) if isinstance(error, VerificationError) else _told(error)
        rows.append(Row("the case", "fail", note=note))
    left = list(folder.left_over())
    if not any(row.status == "fail" and row.quantity == "the case" for row in rows):
        rows += left
    gc.collect()  # networks of 1 GB: gone before the next case begins
    return [replace(row, case=case.name) for row in rows]


def _told(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:300]}"


def unknown_files(folder: Folder, cases: Sequence[Case]) -> list[Row]:
    """A row for every file that belongs to no case."""
    known = {*ABOUT, *(file for case in cases for file in case.files)}
    return [Row("file", "unknown", case=file) for file in folder.files() if file not in known]


def verify(
    folder: Folder,
    only: Sequence[str] = (),
    started: Callable[[Case], None] | None = None,
) -> Iterator[Row]:
    """Runs the cases, yielding the rows of one after the other.

    Args:
        only: glob patterns of cases (and of unknown files); none means all.
        started: called with each case before it runs.

    Raises:
        VerificationError: nothing matches `only`, or a case needs weights and the folder's
            fill.py must not be executed.
    """
    cases = find_cases(folder)
    unknown = unknown_files(folder, cases)

    def wanted(name: str) -> bool:
        return not only or any(fnmatchcase(name, pattern) for pattern in only)

    chosen = [case for case in cases if wanted(case.name)]
    rest = [row for row in unknown if wanted(row.case)]
    if not chosen and not rest:
        names = ", ".join(case.name for case in cases) or "none"
        raise VerificationError(f"no case matches {', '.join(only) or 'anything'}; known: {names}")
    if any(case.needs_weights for case in chosen):
        folder.rule.load()
    for case in chosen:
        if started:
            started(case)
        yield from run_case(folder, case)
    yield from rest
