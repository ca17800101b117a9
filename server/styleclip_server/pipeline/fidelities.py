"""FIDELITY and CROP of a request, checked: what an edited face is synthesized from."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleclip_contract import limits
from styleclip_contract.errors import InvalidCrop, UnknownFidelity
from styleclip_contract.photo_files import flatten

_EXPECTED = "send the output CROP of `invert`"


def parse_fidelity(value: bytes | None, served: Sequence[str], domain: str) -> str:
    """Return the FIDELITY of a request.

    Args:
        value: as it was sent; None: the default.
        served: the values that the server can serve the domain with.

    Raises:
        UnknownFidelity: the value is not one of them.
    """
    if value is None:
        return limits.DEFAULT_FIDELITY
    fidelity = value.decode("utf-8", "replace")
    if fidelity in served:
        return fidelity
    if fidelity in limits.FIDELITIES:
        raise UnknownFidelity(
            f"domain {domain} is served with FIDELITY {', '.join(served)} only: {fidelity!r} "
            "needs a domain converted with --feature-editor and a server that runs its networks "
            "on a CPU"
        )
    raise UnknownFidelity(f"FIDELITY is {fidelity[:20]!r}, expected {', '.join(served)}")


def encode_crop(face: NDArray[np.uint8]) -> bytes:
    """Encode a face (H, W, 3) RGB as CROP."""
    buffer = io.BytesIO()
    # For photos Huffman codes alone are half the time of zlib's fastest level, and no larger.
    Image.fromarray(face).save(buffer, "PNG", compress_level=1, compress_type=2)
    return buffer.getvalue()


def decode_crop(data: bytes, crop_size: tuple[int, int]) -> NDArray[np.uint8]:
    """Decode CROP to a face (H, W, 3) RGB.

    Args:
        crop_size: height and width.

    Raises:
        InvalidCrop: it is not a PNG of this size; no pixels of another one are decoded.
    """
    height, width = crop_size
    if len(data) > limits.CROP_BYTES:
        raise InvalidCrop(
            f"CROP has {len(data)} bytes, at most {limits.CROP_BYTES} are accepted; {_EXPECTED}"
        )
    try:
        with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.size == (width, height):
                image.load()
                return np.array(flatten(image))
            size = f"{image.width} x {image.height}"
    except Exception as error:  # whatever Pillow's parser runs into
        raise InvalidCrop(
            f"the {len(data)} bytes of CROP are not a complete PNG file; {_EXPECTED}"
        ) from error
    raise InvalidCrop(f"CROP has {size} pixels, expected {width} x {height}; {_EXPECTED}")
