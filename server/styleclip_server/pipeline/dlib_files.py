"""Numbers in the format in which dlib serializes its models.

An integer is a control byte (its number of bytes, and 0x80 if it is negative) and its bytes,
little-endian. A floating-point number is two integers, mantissa and exponent of two; a container
is its length and its items; a matrix is its negated height and width and its values. So a model is
one sequence of integers (http://dlib.net/dlib/serialize.h.html).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 18  # bytes decoded at a time
_STRIDE = 16  # integers that one step skips when their positions are searched
_LONGEST = 9  # bytes of an integer, with its control byte


class NotADlibModel(ValueError):
    """The data is not a model of the expected kind."""


class DlibReader:
    """Reads the numbers of a serialized model in order.

    Raises:
        NotADlibModel: the data ends early, or a number is not the expected one. All methods.
    """

    def __init__(self, data: NDArray[np.uint8]) -> None:
        self._data = data
        self._start = 0  # of the bytes that are not decoded
        self._decoded = np.empty(0, np.int64)

    def integers(self, count: int) -> NDArray[np.int64]:
        """Read `count` integers."""
        parts, available = [self._decoded], len(self._decoded)
        while available < count:
            parts.append(self._decode_block())
            available += len(parts[-1])
        decoded = np.concatenate(parts)
        self._decoded = decoded[count:]
        return decoded[:count]

    def _decode_block(self) -> NDArray[np.int64]:
        block = self._data[self._start : self._start + _BLOCK]
        if not len(block):
            raise NotADlibModel("the model ends early")
        positions = _find_integers(block)
        if self._start + len(block) < len(self._data):  # the last may go on in the next block
            positions = positions[positions + _LONGEST <= len(block)]
        values, used = _decode_at(block, positions)
        self._start += used
        return values

    def integer(self, largest: int) -> int:
        """Read an integer from 0 to `largest`."""
        value = int(self.integers(1)[0])
        if not 0 <= value <= largest:
            raise NotADlibModel(f"{value} where 0 to {largest} is expected")
        return value

    def expect(self, *expected: int) -> None:
        """Read integers that are the same in every model."""
        values = self.integers(len(expected)).tolist()
        if values != list(expected):
            raise NotADlibModel(f"{values} where {list(expected)} is expected")

    def floats(self, count: int) -> NDArray[np.float64]:
        """Read `count` floating-point numbers."""
        return to_floats(self.integers(2 * count).reshape(count, 2))

    def column(self, largest: int) -> NDArray[np.float64]:
        """Read a matrix of one column and at most `largest` rows."""
        rows, columns = self.integers(2).tolist()
        if columns != -1 or not 0 < -rows <= largest:
            raise NotADlibModel(f"a matrix of {-rows} x {-columns}")
        return self.floats(-rows)

    def peek(self, largest: int) -> int:
        """Return the next integer, from 0 to `largest`, and read it again next time."""
        value = self.integer(largest)
        self._decoded = np.r_[value, self._decoded]
        return value

    def end(self) -> None:
        """Check that all numbers have been read."""
        if len(self._decoded) or self._start < len(self._data):
            raise NotADlibModel("data follows the model")


def to_floats(pairs: NDArray[np.int64]) -> NDArray[np.float64]:
    """Convert pairs (..., 2) of mantissa and exponent to numbers.

    Raises:
        NotADlibModel: a number is infinite or not a number.
    """
    # dlib writes infinity and NaN as exponents of 32000 and more.
    with np.errstate(over="ignore"):
        values = np.ldexp(
            pairs[..., 0].astype(np.float64), np.clip(pairs[..., 1], -5000, 5000).astype(np.int32)
        )
    if not np.isfinite(values).all():
        raise NotADlibModel("a number is not finite")
    return values


def _find_integers(block: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the positions of the control bytes, the first of which is at 0."""
    end = len(block)
    following = np.minimum(np.arange(end) + 1 + (block & 0x0F), end)
    following = np.append(following, end)
    jump = following
    for _ in range(_STRIDE.bit_length() - 1):
        jump = jump[jump]
    # Python follows the chain in steps of _STRIDE integers, numpy fills in those between.
    jumps, position, starts = jump.data, 0, []
    while position < end:
        starts.append(position)
        position = jumps[position]
    chain = np.empty((len(starts), _STRIDE), np.int64)
    column = np.array(starts)
    for i in range(_STRIDE):
        chain[:, i] = column
        column = following[column]
    flat = chain.ravel()
    return flat[flat < end]


def _decode_at(
    block: NDArray[np.uint8], positions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], int]:
    """Decode the integers at `positions`, and return the number of bytes that they take."""
    control = block[positions]
    sizes = (control & 0x0F).astype(np.int64)
    end = int(positions[-1] + 1 + sizes[-1]) if len(positions) else 0
    if not len(positions) or sizes.min() < 1 or sizes.max() > 8 or end > len(block):
        raise NotADlibModel("this is not a model that dlib serialized")
    values = np.zeros(len(positions), np.int64)
    padded = np.append(block, np.zeros(8, np.uint8))
    for i in range(int(sizes.max())):
        byte = padded[positions + 1 + i].astype(np.int64)
        values |= np.where(i < sizes, byte, 0) << (8 * i)
    return np.where(control & 0x80, -values, values), end
