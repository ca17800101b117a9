"""Image files in memory."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encode_image(image: Image.Image, format: str = "PNG", **options) -> bytes:
    """Return the file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def claim_png_size(png: bytes, width: int, height: int) -> bytes:
    """Return a PNG file with another size in its header, and the checksum of that."""
    header = b"IHDR" + struct.pack(">II", width, height) + png[24:29]
    return png[:12] + header + struct.pack(">I", zlib.crc32(header)) + png[33:]


def decode_pixels(data: bytes) -> np.ndarray:
    """Return the pixels of an image file, float32 [H, W, 3]."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"), np.float32)
