"""Image files in memory."""

import io

from PIL import Image


def encode_image(image: Image.Image, format: str = "PNG", **options) -> bytes:
    """Return the file that Pillow writes."""
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()
