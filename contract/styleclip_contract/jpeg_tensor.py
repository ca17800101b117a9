"""A JPEG file in place of an image's pixels, as IMAGE of `compose` and as RENDER.

Pixels are (height, width, 3); the bytes of a file without metadata are (1, length, 1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from styleclip_contract.errors import NotAnImage


def pack(file: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the bytes of a JPEG file (length,) as a tensor (1, length, 1)."""
    return file.reshape(1, -1, 1)


def unpack(image: NDArray[np.uint8]) -> memoryview | None:
    """Return the bytes of the JPEG file in a tensor, None if it contains pixels.

    Raises:
        NotAnImage: the shape is neither that of pixels nor that of a file.
    """
    if image.shape[2] == 3:
        return None
    if image.shape[0] != 1 or image.shape[2] != 1:
        raise NotAnImage(f"IMAGE has the shape {list(image.shape)}, not [height, width, 3]")
    return np.ascontiguousarray(image).reshape(-1).data
