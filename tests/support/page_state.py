"""What the page shows in the browser: the edited picture, and waiting for it."""

import base64
import hashlib
import io
import re
import time

import numpy as np
from PIL import Image
from playwright.sync_api import expect

from tools.browser import WAIT, settle


def _source(page):
    """The edited picture as it stands in the page, once there is one."""
    image = page.locator("img.after")
    expect(image).to_have_attribute("src", re.compile("^data:"), timeout=WAIT)
    return image.get_attribute("src")


def after(page):
    """What stands for the edited picture: a digest, for messages that can be read."""
    return hashlib.sha256(_source(page).encode()).hexdigest()


def wait_for(page, condition):
    """Wait until `condition` holds for the edited picture; return it."""
    deadline = time.monotonic() + WAIT / 1000
    while not condition(after(page)):
        assert time.monotonic() < deadline, "the picture did not become the expected one"
        page.wait_for_timeout(50)
    settle(page)
    return after(page)


def changed(page, old):
    """The picture once it is another one than `old`."""
    return wait_for(page, lambda now: now != old)


def pixels(encoded):
    return np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB"), np.float32)


def edited_pixels(page):
    """The edited picture, float32 [H, W, 3]."""
    return pixels(base64.b64decode(_source(page).split(",", 1)[1]))


def distance(one, other):
    """The mean difference of two pictures in levels; those of another size are far apart."""
    return float(np.abs(one - other).mean()) if one.shape == other.shape else 255.0


def choose(page, name):
    """Pick an option of a view, a source or a format."""
    page.get_by_role("radio", name=name).click()


def preset(page, title):
    page.locator(".st-key-preset").get_by_text(title, exact=True).click()


def upload(page, file, key="upload"):
    page.locator(f".st-key-{key} input[type=file]").set_input_files(file)


def downloaded(page, name):
    """The path of what the button `name` gives."""
    with page.expect_download(timeout=WAIT) as waiting:
        page.get_by_role("button", name=name, exact=True).click()
    return waiting.value


def told(page, text):
    """Wait until the page says `text`."""
    expect(page.get_by_text(text).first).to_be_visible(timeout=WAIT)
