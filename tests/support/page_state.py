"""Actions on the page in a browser, and the edited image that it shows."""

import base64
import hashlib
import re
import time

import numpy as np
from playwright.sync_api import expect

from image_files import decode_pixels
from tools.browser import WAIT, wait_until_idle

expect.set_options(timeout=WAIT)


def edited_image(page):
    """Return the edited image, once the page has one that follows no slider; encoded."""
    image, uri = page.locator("img.after"), ""
    while not uri.startswith("data:"):
        expect(image).to_have_attribute("src", re.compile("^data:"))
        uri = image.get_attribute("src")
    return base64.b64decode(uri.partition(",")[2])


def digest_of(encoded):
    """Return a digest of an encoded image, short enough for assertion messages."""
    return hashlib.sha256(encoded).hexdigest()


def edited_digest(page):
    """Return the digest of the edited image."""
    return digest_of(edited_image(page))


def edited_pixels(page):
    """Return the edited image, float32 [H, W, 3]."""
    return decode_pixels(edited_image(page))


def mean_difference(one, other):
    """Return the mean absolute difference of two images in levels, 255 for different sizes."""
    return float(np.abs(one - other).mean()) if one.shape == other.shape else 255.0


def _wait_for_image(page, condition):
    """Wait until the page is idle and the digest of its image meets `condition`; return it."""
    deadline = time.monotonic() + WAIT / 1000
    while True:
        if condition(edited_digest(page)):
            wait_until_idle(page)
            if condition(digest := edited_digest(page)):
                return digest
        assert time.monotonic() < deadline, "the image did not become the expected one"
        page.wait_for_timeout(50)


def wait_for_change(page, old):
    """Wait until the edited image's digest is not `old`; return the new one."""
    return _wait_for_image(page, lambda digest: digest != old)


def wait_for_digest(page, expected):
    """Wait until the edited image's digest is `expected`."""
    _wait_for_image(page, lambda digest: digest == expected)


def expect_text(page, text):
    """Wait until the page shows `text`."""
    expect(page.get_by_text(text).first).to_be_visible()


def choose_option(page, name):
    """Choose a view, a source or a format."""
    page.get_by_role("radio", name=name).click()


def choose_preset(page, title):
    page.locator(".st-key-preset").get_by_text(title, exact=True).click()


def upload_file(page, file, key="upload"):
    page.locator(f".st-key-{key} input[type=file]").set_input_files(file)


def download(page, name):
    """Click the button `name`; return the download."""
    with page.expect_download(timeout=WAIT) as event:
        page.get_by_role("button", name=name, exact=True).click()
    return event.value
