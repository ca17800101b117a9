"""Edit on the page in a browser: `edit_on_page.py URL NAME PHOTO SCREENSHOT`, for verify.sh.

Logs in with NAME and the environment variable PASSWORD, uploads PHOTO, moves the strength, waits
for each edited image and those on the way, and takes a screenshot.
"""

import os
import re
import shutil
import sys

from playwright.sync_api import expect, sync_playwright

WAIT = 60_000  # milliseconds


def main(url: str, name: str, photo: str, screenshot: str) -> None:
    login = {"username": name, "password": os.environ["PASSWORD"]}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        page = browser.new_context(ignore_https_errors=True, http_credentials=login).new_page()
        live = []
        page.on("requestfinished", lambda request: "/live/" in request.url and live.append(request))
        page.goto(url)
        edited = page.locator("img.after")
        expect(edited).to_have_attribute("src", re.compile("^data:"), timeout=WAIT)
        sample = edited.get_attribute("src")
        page.get_by_role("radio", name="Upload").click()
        page.locator(".st-key-upload input[type=file]").set_input_files(photo)
        expect(edited).not_to_have_attribute("src", sample, timeout=WAIT)
        uploaded = edited.get_attribute("src")
        strength = page.get_by_role("slider").first
        for _ in range(5):
            strength.press("ArrowRight")
        expect(edited).not_to_have_attribute("src", uploaded, timeout=WAIT)
        page.wait_for_timeout(1000)
        assert live and all(request.response().ok for request in live), "no image while it moved"
        page.screenshot(path=screenshot)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
