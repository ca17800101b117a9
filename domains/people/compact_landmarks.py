"""Shorten the file of a landmark predictor: its leaves keep 8 binary digits.

    python -m domains.people.compact_landmarks build/people/landmarks_68.dat

dlib stores a floating-point number as two integers, each as long as it needs to be
(`styleclip_server/pipeline/dlib_files.py`). On held-out
heads the mean error grows by a two-hundredth.
"""

from __future__ import annotations

from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from styleclip_server.pipeline.dlib_files import DlibReader

DIGITS = 8  # of a leaf's mantissa, so that it is one byte


def compact(path: Path) -> None:
    """Rewrite a predictor's file with rounded leaves."""
    data = np.fromfile(path, np.uint8)
    numbers = DlibReader(data).integers(_count_integers(data))
    coordinates = -int(numbers[1])
    position = 3 + 2 * coordinates  # version, height, width, the initial shape
    levels = int(numbers[position])
    position += 1
    for _ in range(levels):
        trees, splits = numbers[position : position + 2]
        leaf = 2 + 2 * coordinates
        size = 2 + 4 * splits + (splits + 1) * leaf
        end = position + 1 + trees * size
        level = numbers[position + 1 : end].reshape(trees, size)
        leaves = level[:, 2 + 4 * splits :].reshape(trees, splits + 1, leaf)
        rounded = _round(leaves[..., 2::2], leaves[..., 3::2])
        leaves[..., 2::2], leaves[..., 3::2] = rounded
        level[:, 2 + 4 * splits :] = leaves.reshape(trees, -1)
        position = end
    temporary = path.with_suffix(".partial")
    temporary.write_bytes(_encode(numbers))
    temporary.replace(path)


def _count_integers(data: NDArray[np.uint8]) -> int:
    """Return how many integers a file has."""
    lengths, position, count = (1 + (data & 0x0F)).tolist(), 0, 0
    while position < len(lengths):
        position += lengths[position]
        count += 1
    return count


def _round(
    mantissas: NDArray[np.int64], exponents: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Round numbers to DIGITS binary digits."""
    _, length = np.frexp(np.abs(mantissas).astype(np.float64))
    shift = np.maximum(length - DIGITS, 0)
    rounded = np.rint(np.ldexp(mantissas.astype(np.float64), -shift)).astype(np.int64)
    full = np.abs(rounded) == 1 << DIGITS
    return np.where(full, rounded >> DIGITS, rounded), exponents + shift + DIGITS * full


def _encode(numbers: NDArray[np.int64]) -> bytes:
    """Write integers as dlib does: a control byte, and at least one byte, without leading zeros."""
    sizes = np.maximum((np.frexp(np.abs(numbers).astype(np.float64))[1] + 7) // 8, 1)
    columns = np.empty((len(numbers), 9), np.uint8)
    columns[:, 0] = sizes + np.where(numbers < 0, 0x80, 0)
    columns[:, 1:] = np.abs(numbers).astype("<u8")[:, None].view(np.uint8).reshape(-1, 8)
    return columns[np.arange(9) <= sizes[:, None]].tobytes()


@click.command()
@click.argument("path", type=click.Path(path_type=Path, exists=True, dir_okay=False))
def main(path: Path) -> None:
    """Rewrite the predictor PATH with rounded leaves."""
    before = path.stat().st_size
    compact(path)
    print(f"{path}: {before / 1e6:.1f} MB before, {path.stat().st_size / 1e6:.1f} MB now")


if __name__ == "__main__":
    main()
