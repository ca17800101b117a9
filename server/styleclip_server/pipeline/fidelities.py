"""FIDELITY and CROP of a request, checked: what an edited face is synthesized from."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from styleclip_contract import limits
from styleclip_contract.errors import InvalidCrop, UnknownFidelity
from styleclip_contract.photo_files import flatten
from styleclip_server.pipeline.alignment import to_face_crop
from styleclip_server.pipeline.edit_tensors import check_latent

_EXPECTED = "send the output CROP of `invert`"


class FaceOfFeatures(NamedTuple):
    """A face whose features are edited: what they are cached by, and a function that reads it.

    `read` returns the face (3, H, W), RGB in [-1, 1]; it may raise InvalidCrop.
    """

    key: bytes
    read: Callable[[], NDArray[np.float32]]


def find_face(
    w_plus: NDArray[np.float32],
    crop: bytes | None,
    face: NDArray[np.float32] | None,
    crop_size: tuple[int, int],
) -> FaceOfFeatures:
    """Find the face of a request for features. CROP is not decoded yet.

    Args:
        w_plus: W_PLUS (L, w_dim).
        crop, face: CROP or FACE_CROP (3, H, W); None: it was not sent.
        crop_size: height and width.

    Raises:
        InvalidCrop: both are missing.
        InvalidLatent: W_PLUS is not finite.
    """
    check_latent(w_plus)
    if face is not None:
        content, read = face.tobytes(), lambda: face
    elif crop is not None:
        content, read = crop, partial(_read_crop, crop, crop_size)
    else:
        raise InvalidCrop(f"FIDELITY is features, and CROP is missing: {_EXPECTED}")
    # All bytes of the face are hashed: a client gets features of its own photos alone.
    return FaceOfFeatures(hashlib.sha256(w_plus.tobytes() + content).digest(), read)


def _read_crop(crop: bytes, crop_size: tuple[int, int]) -> NDArray[np.float32]:
    return to_face_crop(decode_crop(crop, crop_size))


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
            "needs a domain converted with --feature-editor and --networks cpu, openvino or torch"
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
