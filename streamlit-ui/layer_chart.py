"""A chart of the generator's layers that the edits move, from DELTA of the `direction` model.

Layers are in execution order as StyleCLIP counts them: 4 px has one convolution and one toRGB,
each further resolution two convolutions and one toRGB (StyleCLIP, section 6).

The chart is an HTML table with bars: screen readers read it as a table, and the browser needs no
chart library.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from server_calls import ServerSession

from styleclip_client import Domain, Edit

# Distinct in light and dark mode and with color blindness (Okabe and Ito's palette).
_COLORS = ("#7a68dd", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7")

_STYLE = """<style>
.layers { width: 100%; border-collapse: collapse; font-size: .9rem; }
.layers th { font-weight: 400; text-align: left; white-space: nowrap; padding: .15rem .6rem; }
.layers th, .layers td { border: 0; }
.layers td { padding: .15rem 0; }
.layers .count { text-align: right; white-space: nowrap; padding-right: .8rem;
  font-variant-numeric: tabular-nums; }
.layers .bars { width: 100%; }
.layers .bars div { display: flex; height: .9rem; }
.key { display: inline-block; width: .8rem; height: .8rem; border-radius: .2rem;
  margin: 0 .4rem 0 1rem; }
</style>"""


def show_layer_chart(
    server: ServerSession, domain: Domain, edits: Sequence[Edit], w_plus: NDArray[np.float32]
) -> None:
    """Show how many channels of each layer the edits move, a color for each edit."""
    if not domain.style_channels:
        st.info("This server does not report how many channels each layer has.")
        return
    counts = _count_moved_channels(server, domain, edits, w_plus)
    names = _layer_names(counts.shape[1])
    totals = counts.sum(axis=0)
    if not totals.any():
        st.info("No channel is moved: the strength is 0.")
        return
    st.markdown(
        f"**{totals.sum()}** of {sum(domain.style_channels)} channels are moved, most of them in "
        f"the layer **{names[int(totals.argmax())]}**. Coarse layers (4 to 16 px) control shape "
        "and pose, middle ones features such as eyes and mouth, fine ones color and texture."
    )
    rows = ""
    for layer, name in enumerate(names):
        if name.endswith("toRGB") and not totals[layer]:
            continue  # StyleCLIP does not edit the toRGB layers
        bars = "".join(
            f'<span style="width:{100 * count / totals.max():.1f}%;background:{_color(index)}">'
            "</span>"
            for index, count in enumerate(counts[:, layer])
        )
        rows += (
            f'<tr><th scope="row">{name}</th><td class="count">{totals[layer]} of '
            f'{domain.style_channels[layer]}</td><td class="bars"><div>{bars}</div></td></tr>'
        )
    keys = "".join(
        f'<span class="key" style="background:{_color(index)}"></span>{escape(edit.label)}'
        for index, edit in enumerate(edits)
    )
    st.html(f'{_STYLE}<table class="layers"><tbody>{rows}</tbody></table><p>{keys}</p>')


def _layer_names(count: int) -> list[str]:
    """Return names of the first `count` modulated layers, from coarse to fine."""
    names = ["4 px", "4 px toRGB"]
    for layer in range(count - 2):
        resolution = 8 << layer // 3
        names.append(f"{resolution} px " + ("first", "second", "toRGB")[layer % 3])
    return names[:count]


def _count_moved_channels(
    server: ServerSession, domain: Domain, edits: Sequence[Edit], w_plus: NDArray[np.float32]
) -> NDArray[np.int64]:
    """Count the channels that each edit moves, int [edits, layers]."""
    ends = np.cumsum(domain.style_channels)[:-1]
    return np.array(
        [
            [np.count_nonzero(layer) for layer in np.split(server.direction([edit], w_plus), ends)]
            for edit in edits
        ]
    )


def _color(index: int) -> str:
    return _COLORS[index % len(_COLORS)]
