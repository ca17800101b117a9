"""A photo of several faces: each is a button over the photo, and a click chooses the one to edit.

A custom component (Streamlit's components v2), since none draws buttons over an image. They are
HTML buttons: the keyboard reaches them and a screen reader counts them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from thumbnails import data_uri

_KEY = "face-chooser"
_FACE_FRACTION = 0.55  # of the quad's side: FFHQ's crop has much room around the face

_HTML = '<div class="photo" role="group"><img alt=""></div>'

_CSS = """
.photo { position: relative; border-radius: .5rem; overflow: hidden; line-height: 0; }
img { width: 100%; }
button { position: absolute; padding: 0; min-width: 24px; min-height: 24px; cursor: pointer;
  border: 2px solid #fff; border-radius: .5rem; outline: 1px solid #0009; background: none; }
button:hover { background: #fff3; }
button[aria-pressed=true] { border: 4px solid var(--st-primary-color); }
button:focus-visible { outline: 3px solid #fff; box-shadow: 0 0 0 6px #000; }
button span { position: absolute; left: 2px; top: 2px; min-width: 1.1rem; border-radius: .3rem;
  background: #000b; color: #fff; font: .75rem/1.1rem var(--st-font, sans-serif); }
"""

_JS = """
export default function({ data, parentElement, setTriggerValue }) {
  const box = parentElement.querySelector(".photo");
  box.setAttribute("aria-label", data.label);
  box.querySelector("img").src = data.photo;
  const buttons = [...box.querySelectorAll("button")];
  buttons.slice(data.faces.length).forEach((button) => button.remove());
  data.faces.forEach((face, number) => {
    const button = buttons[number] ?? box.appendChild(document.createElement("button"));
    button.type = "button";
    button.innerHTML = "<span></span>";
    button.firstChild.textContent = number + 1;
    button.setAttribute("aria-label", "Face " + (number + 1) + " of " + data.faces.length);
    button.setAttribute("aria-pressed", number === data.chosen);
    for (const side of ["left", "top", "width", "height"])
      button.style[side] = face[side] + "%";
    button.onclick = () => setTriggerValue("face", number);
  });
}
"""

_component = st.components.v2.component("styleclip_faces", html=_HTML, css=_CSS, js=_JS)


def show_face_chooser(
    photo: bytes,
    size: tuple[int, int],
    quads: Sequence[NDArray[np.floating]],
    chosen: int,
    on_choice: Callable[[int], None],
) -> None:
    """Show a photo with a button over each face.

    Args:
        photo: the encoded photo, at any resolution.
        size: width and height of the photo that the quads refer to.
        quads: float [4, 2] each, corners of the face crops in pixels.
        chosen: index of the face that is marked.
        on_choice: called with the index of the face that is clicked.
    """

    def handle_click() -> None:
        face = st.session_state[_KEY].face
        if isinstance(face, int) and 0 <= face < len(quads):
            on_choice(face)

    _component(
        key=_KEY,
        data={
            "photo": data_uri(photo),
            "label": "Faces in your photo: choose the one to edit",
            "faces": [_button_box(quad, size) for quad in quads],
            "chosen": chosen,
        },
        on_face_change=handle_click,
    )


def _button_box(quad: NDArray[np.floating], size: tuple[int, int]) -> dict[str, float]:
    """Return the box of the face within its crop, in percent of the photo's sides."""
    center = quad.mean(axis=0)
    reach = _FACE_FRACTION * (quad.max(axis=0) - quad.min(axis=0)) / 2
    low = np.clip((center - reach) / size, 0, 0.97)
    high = np.clip((center + reach) / size, 0.03, 1)
    left, top, right, bottom = (round(100 * float(value), 2) for value in (*low, *high))
    return {"left": left, "top": top, "width": right - left, "height": bottom - top}
