"""Before and after in one frame, with a divider to drag or to move with the arrow keys.

A custom component (Streamlit's components v2): streamlit-image-comparison 0.0.4 loads its script
from another site, and streamlit-drawable-konva 0.7.0 draws on a canvas of fixed size without
keyboard or labels. An `<input type="range">` over the two images gives mouse, touch, keyboard and
screen reader the browser's own behavior.
"""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st
from thumbnails import data_uri

_HTML = """
<figure>
  <div class="images">
    <img class="after" alt="">
    <img class="before" alt="">
    <span class="tag left"></span><span class="tag right"></span>
    <div class="line" aria-hidden="true"><span></span></div>
    <input type="range" min="0" max="100" value="50" step="1">
  </div>
</figure>
"""

_CSS = """
figure { margin: 0 auto; max-width: min(100%, 70vh); }
@media (max-width: 640px) { figure { max-width: min(100%, 40vh); } }
.images { position: relative; --at: 50%; border-radius: .6rem; overflow: hidden;
  aspect-ratio: 1; background: var(--st-secondary-background-color); }
img { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
.before { clip-path: inset(0 calc(100% - var(--at)) 0 0); }
.line { position: absolute; top: 0; bottom: 0; left: var(--at); width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 4px #000a; pointer-events: none; }
.line span { position: absolute; top: 50%; left: 50%; width: 36px; height: 36px;
  margin: -18px; border-radius: 50%; background: #fff; box-shadow: 0 0 5px #0008; }
.line span::after { content: "\\2194"; color: #333; font: 22px/34px sans-serif; display: block;
  text-align: center; }
.tag { position: absolute; top: .6rem; padding: .1rem .5rem; border-radius: .4rem; color: #fff;
  background: #000b; font: .8rem var(--st-font, sans-serif); pointer-events: none; }
.left { left: .6rem; } .right { right: .6rem; }
input { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; opacity: 0;
  cursor: ew-resize; touch-action: pan-y; }
.images:has(:focus-visible) { outline: 3px solid var(--st-primary-color); outline-offset: 2px; }
"""

_JS = """
export default function({ data, parentElement }) {
  const find = (name) => parentElement.querySelector(name);
  const [box, input] = [find(".images"), find("input")];
  const before = find(".before"), after = find(".after");
  before.src = data.before;
  after.src = data.after;
  before.alt = data.before_label;
  after.alt = data.after_alt;
  box.style.aspectRatio = data.aspect_ratio;
  if (box.dataset.subject !== data.subject) {  // otherwise it stays where the user left it
    box.dataset.subject = data.subject;
    input.value = data.start;
  }
  find(".left").textContent = data.before_label;
  find(".right").textContent = data.after_label;
  input.setAttribute("aria-label",
    "Divider between " + data.before_label + " and " + data.after_label);
  const move = () => {
    box.style.setProperty("--at", input.value + "%");
    input.setAttribute("aria-valuetext",
      input.value + " percent " + data.before_label + ", the rest " + data.after_label);
  };
  input.oninput = move;
  move();
}
"""

_component = st.components.v2.component("styleclip_divider", html=_HTML, css=_CSS, js=_JS)


@dataclass(frozen=True)
class Comparison:
    """Two encoded images of the same size.

    `aspect_ratio` is width / height. The divider goes to `start` (percent of the width) whenever
    `subject`, which identifies the photo, changes.
    """

    before: bytes
    after: bytes
    after_alt: str
    subject: str
    aspect_ratio: float = 1.0
    start: float = 50.0


def show_divider(comparison: Comparison, after_label: str = "After") -> None:
    """Show a comparison under a divider."""
    _component(
        key="divider",
        data={
            "before": data_uri(comparison.before),
            "after": data_uri(comparison.after),
            "before_label": "Before",
            "after_label": after_label,
            "after_alt": f"{after_label}: {comparison.after_alt}",
            "subject": comparison.subject,
            "aspect_ratio": f"{comparison.aspect_ratio:.4f}",
            "start": round(comparison.start),
        },
    )
