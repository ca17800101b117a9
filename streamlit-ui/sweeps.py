"""Many strengths of one edit: the strip, the α × β grid of StyleCLIP's paper, the GIF.

Each image is one cached `edit` call. Any interaction interrupts the work at the next image, and
finished images stay cached.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape

import streamlit as st
from server_calls import ServerSession
from thumbnails import data_uri, encode_thumbnail

from styleclip_client import Domain, Edit, Inverted
from styleclip_client.sweeps import encode_gif, evenly_spaced, strength_range
from styleclip_contract import errors, limits

_GIF_SIDE = 512  # pixels; a GIF of 1024 would have tens of megabytes
_GIF_STEPS = 12
_STRIP_STEPS = 7
_DEFAULT_STRENGTH, _DEFAULT_THRESHOLD = 5.0, 0.1  # steps of a sweep around an edit of 0

_STYLE = """<style>
.sweep { display: grid; gap: .6rem; padding: 4px;
  grid-template-columns: repeat(auto-fit, minmax(66px, 1fr)); }
.sweep > div { text-align: center; font-size: .9rem; }
.sweep img, .grid img { width: 100%; border-radius: .4rem; display: block; }
.sweep .current img, .grid .current img { outline: 3px solid #7a68dd; }
.scroll { overflow-x: auto; padding: 4px; }
.grid { border-collapse: separate; border-spacing: .3rem; width: 100%; min-width: 340px; }
.grid th { font-weight: 600; padding: .2rem; white-space: nowrap; font-size: .9rem; }
.grid td { min-width: 64px; text-align: center; font-size: .8rem; }
</style>"""


def show_strip(
    server: ServerSession,
    face: Inverted,
    edits: Sequence[Edit],
    varied: int,
    domain: Domain,
) -> None:
    """Show `edits[varied]` at several strengths, the other edits unchanged."""
    edit = edits[varied]
    strengths = _strip_strengths(edit, domain)
    variants = [_replace_edit(edits, varied, strength, edit.threshold) for strength in strengths]
    images = _render_thumbnails(server, face, variants)
    items = "".join(
        f'<div role="listitem" class="{"current" if strength == edit.strength else ""}">'
        f"{_image_cell(image, _format_strength(strength))}{_format_strength(strength)}</div>"
        for strength, image in zip(strengths, images, strict=True)
    )
    st.html(f'{_STYLE}<div class="sweep" role="list" aria-label="Strengths">{items}</div>')


def show_grid(
    server: ServerSession,
    face: Inverted,
    edits: Sequence[Edit],
    varied: int,
    domain: Domain,
) -> None:
    """Show strengths times thresholds of `edits[varied]`, the other edits unchanged."""
    edit = edits[varied]
    strengths, thresholds = _grid_values(edit, domain)
    values = list(itertools.product(strengths, thresholds))
    variants = [_replace_edit(edits, varied, *value) for value in values]
    images = dict(zip(values, _render_thumbnails(server, face, variants), strict=True))
    head = "".join(f'<th scope="col">β {threshold:g}</th>' for threshold in thresholds)
    body = ""
    for strength in strengths:
        cells = ""
        for threshold in thresholds:
            current = (strength, threshold) == (edit.strength, edit.threshold)
            cell = _image_cell(images[strength, threshold], f"α {strength:g}, β {threshold:g}")
            cells += f'<td class="{"current" if current else ""}">{cell}</td>'
        body += f'<tr><th scope="row">{_format_strength(strength)}</th>{cells}</tr>'
    st.html(
        f'{_STYLE}<div class="scroll" tabindex="0" role="region" aria-label="Strength by focus">'
        f'<table class="grid"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def render_gif(
    server: ServerSession,
    face: Inverted,
    edits: Sequence[Edit],
    on_progress: Callable[[float, str], object],
) -> bytes:
    """Render all edits from no strength to their full strength and back, as an endless GIF.

    Args:
        on_progress: called after each frame with the finished fraction (0 to 1) and a text.
    """
    frames = []
    for step in range(_GIF_STEPS + 1):
        fraction = step / _GIF_STEPS
        scaled = [replace(edit, strength=edit.strength * fraction) for edit in edits]
        # PNG, because `encode_gif` reads from its metadata how the image was created.
        frames.append(server.edit(face, scaled, "PNG").image())
        on_progress(fraction, f"Rendering the GIF: frame {step + 1} of {_GIF_STEPS + 1}")
    return encode_gif(frames, limits.DEFAULT_GIF_MILLISECONDS, min(frames[0].width, _GIF_SIDE))


def _strip_strengths(edit: Edit, domain: Domain) -> list[float]:
    """Return strengths of the range of a sweep, including the edit's own."""
    strengths = evenly_spaced(*strength_range(edit, domain), _STRIP_STEPS)
    return sorted({*strengths, round(edit.strength, 3)}, reverse=edit.strength < 0)


def _grid_values(edit: Edit, domain: Domain) -> tuple[list[float], list[float]]:
    """Return strengths (rows) and thresholds (columns) around the edit's own."""
    low, high = domain.strengths(edit)
    strength, threshold = edit.strength or _DEFAULT_STRENGTH, edit.threshold or _DEFAULT_THRESHOLD
    strengths = {
        round(max(low, min(high, strength * factor)), 2) for factor in (0.5, 1.0, 1.5, 2.0)
    }
    thresholds = {round(min(1.0, threshold * factor), 2) for factor in (0.5, 0.75, 1.0, 1.25)}
    return sorted(strengths), sorted(thresholds)


def _render_thumbnails(
    server: ServerSession, face: Inverted, variants: Sequence[Sequence[Edit]]
) -> list[bytes | None]:
    """Render a thumbnail for each variant; None where no channel passes the threshold."""
    placeholder = st.empty()
    images: list[bytes | None] = []
    for done, edits in enumerate(variants):
        if not server.has_cached_edit(face, edits):
            placeholder.progress(done / len(variants), f"Image {done + 1} of {len(variants)}")
        try:
            images.append(encode_thumbnail(server.edit(face, edits).picture))
        except errors.NoChannelLeft:
            images.append(None)
    placeholder.empty()
    return images


def _format_strength(strength: float) -> str:
    return f"α {strength:g}".replace("-", "−")


def _image_cell(image: bytes | None, alt: str) -> str:
    if image is None:
        return "nothing left to change"
    return f'<img src="{data_uri(image)}" alt="{escape(alt)}">'


def _replace_edit(
    edits: Sequence[Edit], index: int, strength: float, threshold: float
) -> list[Edit]:
    changed = replace(edits[index], strength=strength, threshold=threshold)
    return [*edits[:index], changed, *edits[index + 1 :]]
