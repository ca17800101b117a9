"""The web application: `streamlit run app.py -- --server localhost:8001`, or `make ui`.

It is the page (`page.py`), and beside it the images while a slider is dragged (`live_edits`).
"""

from __future__ import annotations

from live_edits import LIVE_IMAGES, ROUTE
from streamlit.starlette import App

app = App("page.py", routes=[ROUTE], lifespan=LIVE_IMAGES.connected)
