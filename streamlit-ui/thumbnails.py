"""Small images, embedded in the page as data: URIs.

`st.image` would decode and resize each of them in every run of the script, and serve each as a file
with a URL.
"""

from __future__ import annotations

import base64
import io
from html import escape

import streamlit as st
from PIL import Image


def encode_thumbnail(data: bytes, side: int = 200) -> bytes:
    """Shrink an encoded image to at most `side` pixels and encode it as JPEG."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def data_uri(data: bytes) -> str:
    """Return an encoded image (JPEG, PNG or WebP) as a data: URI."""
    kind = "png" if data.startswith(b"\x89PNG") else "webp" if data[8:12] == b"WEBP" else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def show_thumbnail(data: bytes, alt: str, width: int, caption: str = "") -> None:
    """Show an encoded image `width` pixels wide."""
    note = f'<figcaption style="text-align:center;font-size:.875rem">{escape(caption)}</figcaption>'
    st.html(
        f'<figure style="margin:0"><img src="{data_uri(data)}" alt="{escape(alt)}" '
        f'style="width:{width}px;border-radius:.4rem;display:block">{note if caption else ""}'
        "</figure>"
    )
