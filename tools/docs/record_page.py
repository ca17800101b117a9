"""Records the page for the README and docs/page.md: an animation, and a picture of each size.

A real page in headless Chromium on a real server; every frame is a screenshot.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import click
from PIL import Image
from playwright.sync_api import Browser, Page

from tools.browser import (
    NO_CHROMIUM,
    ROOT,
    chromium,
    press,
    running_browser,
    running_page,
    settle,
    show,
)

STAGE = {"width": 1100, "height": 790}
SHOWN_WIDTH = 820  # pixels of the animation
# Name: width, height, colour scheme, and how wide it is kept.
SIZES = {
    "phone": (390, 844, "dark", 390),
    "laptop": (1366, 768, "light", 1000),
    "wide": (1920, 1080, "dark", 1200),
}
_QUALITY = 80


class Recording:
    """Screenshots of a page, each with the milliseconds that it stays."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.times: list[int] = []

    def take(self, milliseconds: int) -> None:
        self.frames.append(_screenshot(self.page, SHOWN_WIDTH))
        self.times.append(milliseconds)

    def save(self, path: Path) -> None:
        self.frames[0].save(path, "WEBP", save_all=True, append_images=self.frames[1:],
                            duration=self.times, loop=0, quality=_QUALITY, method=6)  # fmt: skip


def _screenshot(page: Page, width: int) -> Image.Image:
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return image.resize((width, round(image.height * width / image.width)), Image.LANCZOS)


def play(film: Recording) -> None:
    """What the animation shows: compare, change the strength, add an edit, see the sweeps."""
    page = film.page
    film.take(1200)
    drag(film, [*range(50, 9, -7), *range(10, 90, 8), *range(90, 34, -8)])
    for key in 3 * ["PageDown"] + 3 * ["PageUp"]:
        press(page, "How strong", key)
        settle(page)
        film.take(350)
    film.take(600)
    page.get_by_role("button", name="Add another edit").click()
    settle(page)
    film.take(600)
    page.locator(".st-key-preset").get_by_text("Red hair", exact=True).click()
    settle(page)
    film.take(1400)
    for view, milliseconds in (("Strengths", 1800), ("grid", 1800), ("Layers", 1800)):
        page.get_by_role("radio", name=view).click()
        settle(page)
        film.take(milliseconds)
    page.get_by_role("radio", name="Before").click()
    page.get_by_role("button", name="5", exact=True).click()
    settle(page)
    film.take(800)
    drag(film, range(34, 10, -6))
    film.take(1200)


def drag(film: Recording, positions: Iterable[int]) -> None:
    """Drag the divider with the mouse, to percents of the picture's width."""
    box = film.page.locator(".pictures").bounding_box()
    assert box
    for count, position in enumerate(positions):
        x, y = box["x"] + box["width"] * position / 100, box["y"] + box["height"] / 2
        film.page.mouse.move(x, y)
        if not count:
            film.page.mouse.down()
        film.take(70)
    film.page.mouse.up()


def sizes(browser: Browser, url: str, out: Path) -> None:
    """A picture of the first look for each size."""
    for name, (width, height, scheme, kept) in SIZES.items():
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        show(page, url)
        _screenshot(page, kept).save(out / f"page-{name}.webp", quality=_QUALITY, method=6)
        page.close()


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--server", help="gRPC address of a running server; without it one is started.")
@click.option("--out", default=ROOT / "docs", help="Folder for page.webp and page-*.webp.",
              type=click.Path(path_type=Path, file_okay=False, exists=True))  # fmt: skip
def main(server: str | None, out: Path) -> None:
    """Record the page for the documentation."""
    if not chromium():
        raise click.ClickException(NO_CHROMIUM)
    with ExitStack() as stack:
        if server is None:
            from styleclip_server.serving.supervisor import running_server

            server = stack.enter_context(running_server()).grpc_url
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = stack.enter_context(running_page(server, folder / "page.log"))
        browser = stack.enter_context(running_browser())
        sizes(browser, url, out)
        page = browser.new_page(viewport=STAGE)
        show(page, url)
        film = Recording(page)
        play(film)
        film.save(out / "page.webp")
    for path in sorted(out.glob("page*.webp")):
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
