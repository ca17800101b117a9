"""The page and a real browser, for the page's tests, benchmark and recording."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from styleclip_server.serving.ports import find_free_port

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parent.parent
NO_CHROMIUM = "Chromium is needed: `apt-get install chromium`, or its path in CHROMIUM"
WAIT = 180_000  # milliseconds; an idle machine needs one or two seconds


def chromium() -> str | None:
    """Return the path of Chromium: CHROMIUM's, else the installed one, else None."""
    return shutil.which(os.environ.get("CHROMIUM") or "chromium")


@contextmanager
def running_page(server: str, log: Path, home: Path | None = None) -> Iterator[str]:
    """Run the page for the server at gRPC address `server`; yield the page's URL.

    `home`, if given, is its home folder and its folder for temporary files.
    """
    port = find_free_port()
    command = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            [*command, "--", "--server", server],
            cwd=ROOT / "streamlit-ui",
            env=os.environ | ({"HOME": str(home), "TMPDIR": str(home)} if home else {}),
            stdout=output,
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
        process.wait(WAIT / 1000)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run headless Chromium."""
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


def open_page(page: Page, url: str) -> None:
    """Open the page and wait for its first image."""
    page.set_default_timeout(WAIT)
    page.goto(url)
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState"
    )
    page.locator("img.after").wait_for()
    wait_until_idle(page)


def wait_until_idle(page: Page) -> None:
    """Wait until no script of the page runs and none has been requested.

    The browser shows a request to run the script only when the run has begun, so the page's process
    must respond meanwhile: it then has all that was sent before. Turns of the browser's event loop
    are counted, not time, which passes also while a busy machine lets neither of them run.
    """
    page.wait_for_function(
        """async () => {
            const isIdle = () => document.querySelector("[data-testid=stApp]")
                ?.dataset.testScriptState === "notRunning";
            for (let turn = 0; turn < 20; turn++) {
                if (!isIdle()) turn = 0;
                await new Promise((next) => setTimeout(next, 25));
                if (turn % 5 === 4) await fetch("_stcore/health", { cache: "no-store" });
            }
            return isIdle();
        }""",
        timeout=WAIT,
    )


def press_slider_key(page: Page, name: str, key: str, times: int = 1) -> None:
    """Press `key` on the first slider called `name`."""
    page.get_by_role("slider", name=name).first.focus()
    for _ in range(times):
        page.keyboard.press(key)
