"""Which layers of the generator the edits move, from DELTA of the `direction` model.

Layers in execution order as StyleCLIP counts them: 4 px has one convolution and one toRGB, each
doubling of the resolution two convolutions and one toRGB (StyleCLIP, section 6).
"""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt
import numpy as np
import pandas as pd
import streamlit as st
from link import Link
from styleclip_client import Domain, Edit


def layer_names(count: int) -> list[str]:
    """Names for people of `count` modulations, the first ones coarse and the last ones fine."""
    names = ["4 px", "4 px colour"]
    for number in range(count - 2):
        side = 8 << number // 3
        names.append(f"{side} px " + ("first", "second", "colour")[number % 3])
    return names[:count]


def moved(link: Link, domain: Domain, edits: Sequence[Edit]) -> pd.DataFrame:
    """One line for each edit and layer: `edit`, `layer`, `channels` moved, `of` how many."""
    ends = np.cumsum(domain.style_channels)
    lines = []
    for number, edit in enumerate(edits, 1):
        parts = np.split(link.direction([edit]), ends[:-1])
        for name, part in zip(layer_names(len(parts)), parts, strict=True):
            lines.append((f"{number}: {edit.target}", name, np.count_nonzero(part), part.size))
    return pd.DataFrame(lines, columns=["edit", "layer", "channels", "of"])


def chart(link: Link, domain: Domain, edits: Sequence[Edit]) -> None:
    """Draw the number of moved channels of each layer."""
    if not domain.style_channels:
        st.info("This server does not say how its channels are laid out.")
        return
    lines = moved(link, domain, edits)
    used = lines[lines.groupby("layer").channels.transform("sum") > 0]
    if used.empty:
        st.info("No channel is moved.")
        return
    most = used.groupby("layer").channels.sum().idxmax()
    st.markdown(
        f"**{used.channels.sum()}** of {sum(domain.style_channels)} channels are moved, "
        f"most of them in the layer **{most}**. Coarse layers (4 to 16 px) hold shape and pose, "
        "middle ones features such as eyes and mouth, fine ones colour and texture."
    )
    order = [name for name in layer_names(len(domain.style_channels)) if "colour" not in name]
    order = [*order, *(name for name in used.layer.unique() if "colour" in name)]
    drawn = lines[lines.layer.isin(order)]
    bars = (
        alt.Chart(drawn)
        .mark_bar()
        .encode(
            x=alt.X("sum(channels):Q", title="channels moved", axis=alt.Axis(tickMinStep=1)),
            y=alt.Y("layer:N", sort=order, title=None),
            color=alt.Color("edit:N", title=None, legend=alt.Legend(orient="bottom", columns=1)),
            tooltip=["edit", "layer", "channels", "of"],
        )
        .properties(height=26 * len(order) + 60)
    )
    st.altair_chart(bars, width="stretch")
