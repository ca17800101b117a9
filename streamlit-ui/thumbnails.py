"""Small pictures inside the page: made once, sent as part of it.

`st.image` would decode and resize each of them at every run of the script, and keep a file of
each at an address of its own.
"""

from __future__ import annotations

import base64
import io
from html import escape

import streamlit as st
from PIL import Image


def thumbnail(picture: bytes, side: int = 200) -> bytes:
    """A small JPEG of an encoded picture."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    image.thumbnail((side, side))
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return buffer.getvalue()


def data_uri(picture: bytes) -> str:
    """`picture` (JPEG, PNG or WebP) as a data: address, which leaves no file anywhere."""
    kind = (
        "png" if picture.startswith(b"\x89PNG") else "webp" if picture[8:12] == b"WEBP" else "jpeg"
    )
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def show(picture: bytes, alt: str, width: int, caption: str = "") -> None:
    """Draw an encoded picture `width` pixels wide."""
    note = f'<figcaption style="text-align:center;font-size:.875rem">{escape(caption)}</figcaption>'
    st.html(
        f'<figure style="margin:0"><img src="{data_uri(picture)}" alt="{escape(alt)}" '
        f'style="width:{width}px;border-radius:.4rem;display:block">{note if caption else ""}'
        "</figure>"
    )
