"""Record the page for the README and docs/page.md: an animation, and an image of each screen size.

Every frame is a screenshot of a real page in headless Chromium, on a real server.
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
    open_page,
    press_slider_key,
    running_browser,
    running_page,
    wait_until_idle,
)

VIEWPORT = {"width": 1100, "height": 790}
ANIMATION_WIDTH = 820  # pixels
# Name: viewport's width and height, color scheme, width of the saved image.
SCREENS = {
    "phone": (390, 844, "dark", 390),
    "laptop": (1366, 768, "light", 1000),
    "wide": (1920, 1080, "dark", 1200),
}
_QUALITY = 80


class Recording:
    """Screenshots of a page, each with its duration in milliseconds."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.frames: list[Image.Image] = []
        self.durations: list[int] = []

    def capture(self, milliseconds: int) -> None:
        self.frames.append(_screenshot(self.page, ANIMATION_WIDTH))
        self.durations.append(milliseconds)

    def save(self, path: Path) -> None:
        self.frames[0].save(
            path,
            "WEBP",
            save_all=True,
            append_images=self.frames[1:],
            duration=self.durations,
            loop=0,
            quality=_QUALITY,
            method=6,
        )


def _screenshot(page: Page, width: int) -> Image.Image:
    image = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
    return image.resize(
        (width, round(image.height * width / image.width)), Image.Resampling.LANCZOS
    )


def record_animation(recording: Recording) -> None:
    """Compare, change the strength, add an edit, open the sweeps."""
    page = recording.page
    recording.capture(1200)
    drag_divider(recording, [*range(50, 9, -7), *range(10, 90, 8), *range(90, 34, -8)])
    for key in 3 * ["PageDown"] + 3 * ["PageUp"]:
        press_slider_key(page, "How strong", key)
        wait_until_idle(page)
        recording.capture(350)
    recording.capture(600)
    page.get_by_role("button", name="Add another edit").click()
    wait_until_idle(page)
    recording.capture(600)
    page.locator(".st-key-preset").get_by_text("Red hair", exact=True).click()
    wait_until_idle(page)
    recording.capture(1400)
    for view, milliseconds in (("Strengths", 1800), ("grid", 1800), ("Layers", 1800)):
        page.get_by_role("radio", name=view).click()
        wait_until_idle(page)
        recording.capture(milliseconds)
    page.get_by_role("radio", name="Before").click()
    page.get_by_role("button", name="5", exact=True).click()
    wait_until_idle(page)
    recording.capture(800)
    drag_divider(recording, range(34, 10, -6))
    recording.capture(1200)


def drag_divider(recording: Recording, positions: Iterable[int]) -> None:
    """Drag the divider with the mouse; positions are percent of the image's width."""
    box = recording.page.locator(".images").bounding_box()
    assert box
    for count, position in enumerate(positions):
        x, y = box["x"] + box["width"] * position / 100, box["y"] + box["height"] / 2
        recording.page.mouse.move(x, y)
        if not count:
            recording.page.mouse.down()
        recording.capture(70)
    recording.page.mouse.up()


def save_screens(browser: Browser, url: str, out: Path) -> None:
    """Save an image of the page's first view on each screen."""
    for name, (width, height, scheme, saved_width) in SCREENS.items():
        page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
        open_page(page, url)
        _screenshot(page, saved_width).save(out / f"page-{name}.webp", quality=_QUALITY, method=6)
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
        save_screens(browser, url, out)
        page = browser.new_page(viewport=VIEWPORT)
        open_page(page, url)
        recording = Recording(page)
        record_animation(recording)
        recording.save(out / "page.webp")
    for path in sorted(out.glob("page*.webp")):
        print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
