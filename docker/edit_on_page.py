"""Edits on the page in a browser: `python edit_on_page.py URL NAME PICTURE`, for verify.sh.

Logs in with NAME and the environment's PASSWORD, moves the strength, waits for the other picture
and writes a screenshot to PICTURE.
"""

import os
import re
import shutil
import sys

from playwright.sync_api import expect, sync_playwright

WAIT = 60_000  # milliseconds


def main(url: str, name: str, picture: str) -> None:
    login = {"username": name, "password": os.environ["PASSWORD"]}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        page = browser.new_context(ignore_https_errors=True, http_credentials=login).new_page()
        page.goto(url)
        edited = page.locator("img.after")
        expect(edited).to_have_attribute("src", re.compile("^data:"), timeout=WAIT)
        before = edited.get_attribute("src")
        strength = page.get_by_role("slider").first
        for _ in range(5):
            strength.press("ArrowRight")
        expect(edited).not_to_have_attribute("src", before, timeout=WAIT)
        page.wait_for_timeout(1000)
        page.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
