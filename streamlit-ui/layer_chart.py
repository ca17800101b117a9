"""Which layers of the generator the edits move, from DELTA of the `direction` model.

Layers in execution order as StyleCLIP counts them: 4 px has one convolution and one toRGB, each
doubling of the resolution two convolutions and one toRGB (StyleCLIP, section 6).

The chart is a table with bars in it: it is read aloud as a table, and it needs no chart library in
the browser.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
import streamlit as st
from server_calls import Link

from styleclip_client import Domain, Edit

# Told apart in light and dark, and by people who see fewer colours (Okabe and Ito's palette).
_COLOURS = ("#7a68dd", "#e69f00", "#009e73", "#d55e00", "#56b4e9", "#cc79a7")

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


def layer_names(count: int) -> list[str]:
    """Names for people of `count` modulations, the first ones coarse and the last ones fine."""
    names = ["4 px", "4 px colour"]
    for number in range(count - 2):
        side = 8 << number // 3
        names.append(f"{side} px " + ("first", "second", "colour")[number % 3])
    return names[:count]


def moved(link: Link, domain: Domain, edits: Sequence[Edit]) -> np.ndarray:
    """Channels moved, int [edits, layers]."""
    ends = np.cumsum(domain.style_channels)[:-1]
    return np.array(
        [
            [np.count_nonzero(part) for part in np.split(link.direction([edit]), ends)]
            for edit in edits
        ]
    )


def chart(link: Link, domain: Domain, edits: Sequence[Edit]) -> None:
    """Draw the number of moved channels of each layer, a colour for each edit."""
    if not domain.style_channels:
        st.info("This server does not say how its channels are laid out.")
        return
    counts = moved(link, domain, edits)
    names = layer_names(counts.shape[1])
    total = counts.sum(axis=0)
    if not total.any():
        st.info("No channel is moved: the strength is 0.")
        return
    st.markdown(
        f"**{total.sum()}** of {sum(domain.style_channels)} channels are moved, most of them in "
        f"the layer **{names[int(total.argmax())]}**. Coarse layers (4 to 16 px) hold shape and "
        "pose, middle ones features such as eyes and mouth, fine ones colour and texture."
    )
    rows = ""
    for layer, name in enumerate(names):
        if name.endswith("colour") and not total[layer]:
            continue  # StyleCLIP leaves the toRGB layers alone
        bars = "".join(
            f'<span style="width:{100 * count / total.max():.1f}%;background:{_colour(number)}">'
            "</span>"
            for number, count in enumerate(counts[:, layer])
        )
        rows += (
            f'<tr><th scope="row">{name}</th><td class="count">{total[layer]} of '
            f'{domain.style_channels[layer]}</td><td class="bars"><div>{bars}</div></td></tr>'
        )
    keys = "".join(
        f'<span class="key" style="background:{_colour(number)}"></span>{escape(edit.target)}'
        for number, edit in enumerate(edits)
    )
    st.html(f'{_STYLE}<table class="layers"><tbody>{rows}</tbody></table><p>{keys}</p>')


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]
