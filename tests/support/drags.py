"""Drags of the page's slider by mouse and touch, and the images that follow it."""

import re
import time

from tools.browser import WAIT, press_slider_key, wait_until_idle


def slider(page):
    return page.get_by_role("slider", name="How strong").first


def record_live_images(page):
    """Return a list that gets the addresses of the images that follow a slider."""
    urls = []

    def record(response):
        if "/live/" in response.url and response.ok:  # a busy server is asked again
            urls.append(response.url)

    page.on("response", record)
    return urls


def value_in(url):
    return float(re.search("value=([-0-9.]+)", url)[1])


class Mouse:
    def __init__(self, page):
        self.page = page

    def down(self, x, y):
        self.page.mouse.move(x, y)
        self.page.mouse.down()

    def move(self, x, y):
        self.page.mouse.move(x, y)

    def up(self):
        self.page.mouse.up()


class Touch:
    def __init__(self, page):
        self.session = page.context.new_cdp_session(page)

    def _send(self, kind, *points):
        points = [{"x": x, "y": y} for x, y in points]
        self.session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    def down(self, x, y):
        self._send("touchStart", (x, y))

    def move(self, x, y):
        self._send("touchMove", (x, y))

    def up(self):
        self._send("touchEnd")


def drag(page, pointer, wait):
    """Drag the thumb of "How strong" to the left in three moves, and call `wait` after each.

    It is not released.
    """
    slider(page).scroll_into_view_if_needed()
    box = slider(page).locator("xpath=../..").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    pointer.down(x, y)
    for move in range(3):
        for step in range(10):
            pointer.move(x - 20 * move - 2 * step, y)
            page.wait_for_timeout(30)
        wait()


def slider_value(page):
    return float(slider(page).get_attribute("aria-valuetext"))


def wait_while_page_runs(page, condition):
    """Wait until `condition` is true, and let the browser's events arrive meanwhile."""
    deadline = time.monotonic() + WAIT / 1000
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        page.wait_for_timeout(50)


def wait_for_live_image(page, urls):
    """Wait until the browser has received the image of the slider's value."""
    wait_while_page_runs(page, lambda: urls and value_in(urls[-1]) == slider_value(page))


def press_until_image_follows(page, urls, name="How strong", field="strength"):
    """Press a key of a slider until the browser has received an image of it before the result.

    The page requests such an image at once, but drops it when the result of the press comes first,
    as it may on a busy server.
    """

    def press():
        press_slider_key(page, name, "ArrowLeft")
        wait_until_idle(page)
        return any(f"field={field}" in url for url in urls)

    wait_while_page_runs(page, press)
