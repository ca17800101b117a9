"""The page and a real browser for it: what its tests, its benchmark and its recording share."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parent.parent
NO_CHROMIUM = "Chromium is needed: `apt-get install chromium`, or its path in CHROMIUM"
WAIT = 180_000  # milliseconds, for what an idle machine does in a second or two


def chromium() -> str | None:
    """The browser's program: that of CHROMIUM, else Debian's; None when there is none."""
    return shutil.which(os.environ.get("CHROMIUM") or "chromium")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_page(server: str, log: Path, home: Path | None = None) -> Iterator[str]:
    """The address of a page for the server at gRPC address `server`, until the block ends.

    `home` is where it finds its home folder and keeps its temporary files, if any.
    """
    port = free_port()
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    with log.open("w") as said:
        process = subprocess.Popen(
            [*command, "--", "--server", server],
            cwd=ROOT / "streamlit-ui",
            env=os.environ | ({"HOME": str(home), "TMPDIR": str(home)} if home else {}),
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        opener, deadline = build_opener(ProxyHandler({})), time.monotonic() + WAIT / 1000
        while True:
            try:
                opener.open(f"{url}/_stcore/health", timeout=5).close()
                break
            except (URLError, OSError) as error:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"the page did not start: {log.read_text()}") from error
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Headless Chromium, until the block ends."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium(),
            args=[
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--use-fake-device-for-media-stream",  # a camera that shows a clock
                "--use-fake-ui-for-media-stream",
            ],
        )
        try:
            yield browser
        finally:
            browser.close()


def show(page: Page, url: str) -> None:
    """Open the page and wait for its first picture."""
    page.set_default_timeout(WAIT)
    page.goto(url)
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState"
    )
    page.locator("img.after").wait_for()
    settle(page)


def settle(page: Page) -> None:
    """Wait until the page has nothing left to draw: for half a second no script runs."""
    page.wait_for_function(
        """() => new Promise((done) => {
            const state = () =>
                document.querySelector("[data-testid=stApp]")?.dataset.testScriptState;
            let calm = performance.now();
            const look = () => {
                if (state() !== "notRunning") calm = performance.now();
                if (performance.now() - calm > 500) done(true);
                else setTimeout(look, 25);
            };
            look();
        })""",
        timeout=WAIT,
    )


def press(page: Page, name: str, key: str, times: int = 1, number: int = 0) -> None:
    """Press `key` on a slider."""
    page.get_by_role("slider", name=name).nth(number).focus()
    for _ in range(times):
        page.keyboard.press(key)
