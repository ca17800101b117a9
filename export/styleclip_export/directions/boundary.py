"""A direction from labeled latents: the normal of a linear boundary between two classes.

Source: Shen et al. 2020, "Interpreting the Latent Space of GANs" (InterFaceGAN), section 3.1; the
official `utils/manipulator.py` (train_boundary), which also fits a linear SVM and takes the
extremes of scores.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from styleclip_contract.wire import W_DIM
from styleclip_export.directions import files
from styleclip_export.directions.files import FloatArray
from styleclip_export.errors import DirectionError

Classifier = Literal["svm", "logistic"]
SUFFIXES = (".npz", ".npy", ".pt", ".safetensors")
MIN_LATENTS_PER_CLASS = 4  # latents of each class, of which one is held out
MAX_LATENTS = 200_000
MAX_ROWS = 18  # of one latent; a longer array has one latent of W in each row
_FILE_COLUMN = "file"


@dataclass(frozen=True)
class LabeledLatents:
    """Latents (N, 512) or (N, L, 512) and whether each has the attribute, bool (N,)."""

    latents: FloatArray
    labels: NDArray[np.bool_]


@dataclass(frozen=True)
class Boundary:
    """A fitted direction.

    Attributes:
        direction: (512,) or (L, 512). Strength 1 is the standard deviation of the latents along it.
        accuracy: share of the held-out latents that the boundary classifies correctly.
        training, held_out: numbers of latents.
    """

    direction: FloatArray
    accuracy: float
    training: int
    held_out: int


def read_folders(folder: Path, towards: str) -> LabeledLatents:
    """Read a folder with two subfolders of latents, one for each class.

    Args:
        towards: the subfolder whose attribute the direction adds.

    Raises:
        DirectionError: there are not two subfolders, or they have too few latents.
        CheckpointError: a file is not a latent.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_dir())
    if len(names) != 2 or towards not in names:
        raise DirectionError(
            f"{folder} has the subfolders {', '.join(names) or 'none'}: two are expected, and "
            f"--towards names one of them, or give --labels"
        )
    parts = [
        _read_latents(sorted(p for p in (folder / name).rglob("*") if p.suffix in SUFFIXES))
        for name in names
    ]
    labels = np.concatenate(
        [np.full(len(p), n == towards) for n, p in zip(names, parts, strict=True)]
    )
    return LabeledLatents(_concatenate(parts), labels)


def read_table(latents: Path, table: Path, towards: str, share: float) -> LabeledLatents:
    """Read latents that a CSV file labels.

    Args:
        latents: a folder, in which the column "file" names each latent; or one file of all
            latents, in the order of the rows.
        table: has a header; a column of two values, or of scores. A row whose cell is empty is
            left out.
        towards: the column. The direction leads to its higher value.
        share: of scores, the part at each end that is used, 0 to 0.5.

    Raises:
        DirectionError: the table does not fit the latents, or has no such column.
        CheckpointError: a file is not a latent.
    """
    rows = _read_rows(table, towards)
    labeled = [i for i, row in enumerate(rows) if (row[towards] or "").strip()]
    scores = np.array([_score(rows[i][towards], towards, table) for i in labeled])
    order, labels = _select_extremes(scores, share)
    chosen = [labeled[i] for i in order]
    if latents.is_dir():
        if _FILE_COLUMN not in rows[0]:
            raise DirectionError(f"{table} needs a column {_FILE_COLUMN!r} with the latents' names")
        array = _read_latents([latents / str(rows[i][_FILE_COLUMN]) for i in chosen])
        if len(array) != len(chosen):
            raise DirectionError(f"a file that {table} names has more than one latent")
        return LabeledLatents(array, labels)
    all_latents = _read_latents([latents])
    if len(all_latents) != len(rows):
        raise DirectionError(
            f"{latents} has {len(all_latents)} latents, {table} has {len(rows)} rows: one for each "
            "is expected"
        )
    return LabeledLatents(all_latents[chosen], labels)


def _read_rows(table: Path, column: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file with this column."""
    with table.open(newline="", encoding="utf-8-sig") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or column not in rows[0]:
        known = ", ".join(rows[0]) if rows else "none"
        raise DirectionError(f"{table} has no column {column!r}; it has: {known}")
    return rows


def fit(
    data: LabeledLatents, classifier: Classifier = "svm", held_out: float = 0.2, seed: int = 0
) -> Boundary:
    """Fit a linear boundary and return its normal.

    Args:
        held_out: the part of each class that the boundary is not fitted to, but judged by.

    Raises:
        DirectionError: a class has too few latents.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import train_test_split
    from sklearn.svm import LinearSVC

    fewest = min(int(data.labels.sum()), int((~data.labels).sum()))
    if fewest < MIN_LATENTS_PER_CLASS:
        raise DirectionError(
            f"a class has {fewest} latents; at least {MIN_LATENTS_PER_CLASS} are needed, "
            "some hundreds are better"
        )
    latents = _drop_equal_rows(data.latents)
    flat = latents.reshape(len(latents), -1)
    train, test, labels, test_labels = train_test_split(
        flat, data.labels, test_size=held_out, random_state=seed, stratify=data.labels
    )
    # The features are centered and share a scale, which leaves the boundary's normal in W.
    center, scale = train.mean(0), train.std()
    model = (
        LinearSVC(class_weight="balanced", random_state=seed, dual="auto", max_iter=20_000)
        if classifier == "svm"
        else LogisticRegression(class_weight="balanced", max_iter=2_000)
    )
    model.fit((train - center) / scale, labels)
    accuracy = float(model.score((test - center) / scale, test_labels))
    normal = model.coef_[0] / np.linalg.norm(model.coef_[0])
    direction = (normal * (train @ normal).std()).astype(np.float32)
    return Boundary(direction.reshape(latents.shape[1:]), accuracy, len(train), len(test))


def _score(text: str, column: str, table: Path) -> float:
    text = text.strip().lower()
    value = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}.get(text)
    try:
        number = float(text) if value is None else value
    except ValueError:
        number = float("nan")
    if not np.isfinite(number):
        raise DirectionError(f"{table}: {column} is {text!r} in a row; a number, true or false")
    return number


def _select_extremes(
    scores: NDArray[np.floating], share: float
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the scores to use and their labels: all of two values, or the extremes of more."""
    values = np.unique(scores)
    if len(values) < 2:
        raise DirectionError("all labels are equal: two classes are needed")
    if len(values) == 2:
        return np.arange(len(scores)), scores == values[1]
    count = max(1, round(share * len(scores)))
    order = np.argsort(scores, kind="stable")
    return np.concatenate([order[:count], order[-count:]]), np.arange(2 * count) >= count


def _read_latents(paths: list[Path]) -> FloatArray:
    """Return the latents of the files, (N, 512) or (N, L, 512)."""
    if not paths:
        raise DirectionError(f"there are no latents ({', '.join(SUFFIXES)})")
    return _concatenate([_as_latents(path, files.read(path)) for path in paths])


def _as_latents(path: Path, content: files.DirectionContent) -> FloatArray:
    if not isinstance(content, np.ndarray) or content.shape[-1] != W_DIM or content.ndim > 3:
        raise DirectionError(
            f"{path} is not a latent: (L, {W_DIM}), as `styleclip invert` writes it, ({W_DIM},) or "
            "many of them is expected"
        )
    if content.ndim == 1 or (content.ndim == 2 and len(content) <= MAX_ROWS):
        return content[np.newaxis]
    return content


def _concatenate(parts: list[FloatArray]) -> FloatArray:
    if len({part.shape[1:] for part in parts}) != 1:
        shapes = ", ".join(sorted({str(part.shape[1:]) for part in parts}))
        raise DirectionError(f"the latents have different shapes: {shapes}")
    if sum(map(len, parts)) > MAX_LATENTS:
        raise DirectionError(f"there are more than {MAX_LATENTS:,} latents")
    return np.concatenate(parts)


def _drop_equal_rows(latents: FloatArray) -> FloatArray:
    """Return (N, 512) where each latent repeats one row, as those of W do."""
    if latents.ndim == 3 and (latents == latents[:, :1]).all():
        return latents[:, 0]
    return latents
