"""Many strengths of one edit: the strip, the α × β grid of StyleCLIP's paper, the GIF.

Each picture is one `edit` call whose answer the session keeps. A touch of any control interrupts
the work at the next picture, and what is done stays done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from server_calls import Link
from thumbnails import data_uri, thumbnail

from styleclip_client import Edit
from styleclip_client.sweeps import animation
from styleclip_contract import errors, limits

_GIF_SIDE = 512  # pixels; a GIF of 1024 would have tens of megabytes
_GIF_STEPS = 12
_GIF_MILLISECONDS = 80  # a picture

_STYLE = """<style>
.sweep { display: grid; gap: .6rem; padding: 4px;
  grid-template-columns: repeat(auto-fit, minmax(66px, 1fr)); }
.sweep > div { text-align: center; font-size: .9rem; }
.sweep img, .grid img { width: 100%; border-radius: .4rem; display: block; }
.sweep .now img, .grid .now img { outline: 3px solid #7a68dd; }
.scroll { overflow-x: auto; padding: 4px; }
.grid { border-collapse: separate; border-spacing: .3rem; width: 100%; min-width: 340px; }
.grid th { font-weight: 600; padding: .2rem; white-space: nowrap; font-size: .9rem; }
.grid td { min-width: 64px; text-align: center; font-size: .8rem; }
</style>"""


def strip_strengths(edit: Edit) -> list[float]:
    """From the opposite of the edit to twice it, the edit's own strength among them."""
    unit = edit.strength or 5.0
    values = {_bounded(unit * factor) for factor in (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)}
    return sorted(values, reverse=unit < 0)


def grid_values(edit: Edit) -> tuple[list[float], list[float]]:
    """Strengths (rows) and thresholds (columns) around the edit's own."""
    unit, focus = edit.strength or 5.0, edit.threshold or 0.1
    strengths = sorted({_bounded(unit * factor) for factor in (0.5, 1.0, 1.5, 2.0)})
    thresholds = sorted({round(min(1.0, focus * factor), 2) for factor in (0.5, 0.75, 1.0, 1.25)})
    return strengths, thresholds


def strip(link: Link, w_plus: NDArray[np.float32], edits: Sequence[Edit], which: int) -> None:
    """Draw the chosen edit at several strengths, the others as they are."""
    strengths = strip_strengths(edits[which])
    wanted = [_with(edits, which, strength, edits[which].threshold) for strength in strengths]
    pictures = _pictures(link, w_plus, wanted)
    items = "".join(
        f'<div role="listitem" class="{"now" if strength == edits[which].strength else ""}">'
        f"{_cell(picture, alpha(strength))}{alpha(strength)}</div>"
        for strength, picture in zip(strengths, pictures, strict=True)
    )
    st.html(f'{_STYLE}<div class="sweep" role="list" aria-label="Strengths">{items}</div>')


def grid(link: Link, w_plus: NDArray[np.float32], edits: Sequence[Edit], which: int) -> None:
    """Draw strengths times thresholds of the chosen edit, the others as they are."""
    strengths, thresholds = grid_values(edits[which])
    wanted = [
        _with(edits, which, strength, threshold)
        for strength in strengths
        for threshold in thresholds
    ]
    pictures = iter(_pictures(link, w_plus, wanted))
    head = "".join(f'<th scope="col">β {threshold:g}</th>' for threshold in thresholds)
    body = ""
    for strength in strengths:
        cells = ""
        for threshold in thresholds:
            now = (strength, threshold) == (edits[which].strength, edits[which].threshold)
            cell = _cell(next(pictures), f"α {strength:g}, β {threshold:g}")
            cells += f'<td class="{"now" if now else ""}">{cell}</td>'
        body += f'<tr><th scope="row">{alpha(strength)}</th>{cells}</tr>'
    st.html(
        f'{_STYLE}<div class="scroll" tabindex="0" role="region" aria-label="Strength by focus">'
        f'<table class="grid"><thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody></table>'
        "</div>"
    )


def gif(
    link: Link,
    w_plus: NDArray[np.float32],
    edits: Sequence[Edit],
    told: Callable[[float, str], object],
) -> bytes:
    """All edits from nothing to their full strength and back, as an endless GIF."""
    frames = []
    for step in range(_GIF_STEPS + 1):
        part = step / _GIF_STEPS
        scaled = [replace(edit, strength=edit.strength * part) for edit in edits]
        frames.append(link.edit(w_plus, scaled, "PNG").image())  # PNG says how it was made
        told(step / _GIF_STEPS, f"Making the GIF: picture {step + 1} of {_GIF_STEPS + 1}")
    return animation(frames, _GIF_MILLISECONDS, min(frames[0].width, _GIF_SIDE))


def _pictures(
    link: Link, w_plus: NDArray[np.float32], wanted: Sequence[Sequence[Edit]]
) -> list[bytes | None]:
    """A small picture for each stack; None where the threshold leaves nothing to change."""
    place = st.empty()
    pictures: list[bytes | None] = []
    for done, edits in enumerate(wanted):
        if not link.has_edit(w_plus, edits):
            place.progress(done / len(wanted), f"Picture {done + 1} of {len(wanted)}")
        try:
            pictures.append(thumbnail(link.edit(w_plus, edits).picture))
        except errors.NoChannelLeft:
            pictures.append(None)
    place.empty()
    return pictures


def alpha(strength: float) -> str:
    """A strength as it is printed, with a true minus."""
    return f"α {strength:g}".replace("-", "−")


def _cell(picture: bytes | None, text: str) -> str:
    if picture is None:
        return "nothing left to change"
    return f'<img src="{data_uri(picture)}" alt="{escape(text)}">'


def _with(edits: Sequence[Edit], which: int, strength: float, threshold: float) -> list[Edit]:
    changed = replace(edits[which], strength=strength, threshold=threshold)
    return [*edits[:which], changed, *edits[which + 1 :]]


def _bounded(strength: float) -> float:
    return round(max(-limits.STRENGTH, min(limits.STRENGTH, strength)), 2)
