"""Draws docs/api.webp: the description of the web API in a real browser.

python -m tools.docs.show_api OUT.webp
"""

from __future__ import annotations

import io
from pathlib import Path

import click
from PIL import Image

from styleclip_server.serving.supervisor import running_server
from tools.browser import running_browser


@click.command()
@click.argument("out", type=click.Path(dir_okay=False, path_type=Path))
def main(out: Path) -> None:
    """Start a server, open its /docs, and write an image of it to OUT."""
    with running_server(canary=0) as server, running_browser() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 880})
        page.goto(f"http://{server.http_url}/docs")
        page.locator("#operations-edit-edit").wait_for()
        shot = Image.open(io.BytesIO(page.screenshot()))
        shot.convert("RGB").save(out, quality=85, method=6)


if __name__ == "__main__":
    main()
