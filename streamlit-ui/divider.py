"""Before and after in one frame, with a divider to drag or to move with the arrow keys.

While another slider of the page is dragged, the image after the edit follows it (`live_edits`).

A custom component (Streamlit's components v2): streamlit-image-comparison 0.0.4 loads its script
from another site, and streamlit-drawable-konva 0.7.0 draws on a canvas of fixed size without
keyboard or labels. An `<input type="range">` over the two images gives mouse, touch, keyboard and
screen reader the browser's own behavior.
"""

from __future__ import annotations

import re
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
// While a slider moves, asks the page's address for images: one request at a time, with the newest
// value. Without an answer the image changes on release only, when the page's script has run.
function followSliders(box) {
  const live = { data: null, wanted: null, last: null, asking: false, generation: 0, off: false };
  const show = (blob) => {
    if (live.shown) URL.revokeObjectURL(live.shown);
    live.shown = URL.createObjectURL(blob);
    box.querySelector(".after").src = live.shown;
  };
  live.ask = async () => {
    if (live.asking) return;
    live.asking = true;
    while (live.wanted && live.data && !live.off) {
      const wanted = live.wanted, generation = live.generation;
      live.wanted = null;
      try {
        const query = new URLSearchParams(wanted);
        const url = new URL("live/" + live.data.id + "?" + query, document.baseURI);
        const answer = await fetch(url, { cache: "no-store" });
        if (answer.ok) {
          const blob = await answer.blob();
          if (generation === live.generation) show(blob);
        } else if (answer.status === 503 || answer.status === 429) {
          // Busy, or over the gateway's rate limit: ask again unless the slider moved on.
          await new Promise((done) => setTimeout(done, 50));
          if (generation === live.generation) live.wanted ??= wanted;
        } else if (answer.status === 404) {
          live.off = true;
        }
      } catch {  // not reachable
        live.off = true;
      }
    }
    live.asking = false;
  };
  const observer = new MutationObserver((changes) => {
    if (!box.isConnected) return observer.disconnect();
    for (const { target } of changes) {
      const key = target.closest("[class*='st-key-']")?.className.match(/st-key-([\\w-]+)/)?.[1];
      const [edit, field] = live.data?.sliders[key] ?? [];
      if (!field || target !== document.activeElement) continue;  // moved by the script
      const wanted = { edit, field, value: target.value };
      if (JSON.stringify(wanted) !== JSON.stringify(live.last)) live.wanted = live.last = wanted;
    }
    live.ask();
  });
  observer.observe(document.body, { subtree: true, attributeFilter: ["aria-valuetext"] });
  return live;
}

function showResult(box, data) {
  const live = (box.live ??= followSliders(box));
  live.data = data.live;
  if (live.after === data.after) return;
  live.after = box.querySelector(".after").src = data.after;
  live.generation += 1;  // answers under way are older
  // The user has gone on dragging while the script ran.
  const pressed = document.querySelector("[data-testid=stSlider]:active");
  live.wanted = pressed && live.last;
  live.ask();
}

export default function({ data, parentElement }) {
  const find = (name) => parentElement.querySelector(name);
  const [box, input] = [find(".images"), find("input")];
  const before = find(".before"), after = find(".after");
  before.src = data.before;
  showResult(box, data);
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


@dataclass(frozen=True)
class LiveSliders:
    """The sliders that the image follows.

    `live_id` is the session's in `live_edits`; `sliders` has by a widget's key the index of its
    edit and the number that it sets.
    """

    live_id: str
    sliders: dict[str, tuple[int, str]]


def show_divider(
    comparison: Comparison, after_label: str = "After", live: LiveSliders | None = None
) -> None:
    """Show a comparison under a divider; the image after the edit follows the `live` sliders."""
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
            "live": live
            and {
                "id": live.live_id,
                "sliders": {_css_key(key): value for key, value in live.sliders.items()},
            },
        },
    )


def _css_key(key: str) -> str:
    """Return a widget's key as Streamlit puts it into the class of its element."""
    return re.sub("[^a-zA-Z0-9_-]", "-", key.strip())
