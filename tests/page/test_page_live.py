"""The image follows a slider while it is dragged: a real browser and a real server."""

import re
from dataclasses import replace
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import pytest

from paths import AVATAR

pytest.importorskip("streamlit", reason="the page's packages are missing: make ui")
pytest.importorskip("playwright.sync_api", reason="playwright is missing: make test")
from playwright.sync_api import expect

from page_state import decode_pixels, edited_digest, edited_pixels, mean_difference, wait_for_change
from styleclip_client import Client
from tools.browser import WAIT, press_slider_key, wait_until_idle

STEPS = 30


def slider(page, name="How strong"):
    return page.get_by_role("slider", name=name).first


def live_requests(page):
    """Record the addresses of the images that the browser asks for while a slider is dragged."""
    urls = []
    page.on("requestfinished", lambda request: "/live/" in request.url and urls.append(request.url))
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


def drag(page, pointer, name="How strong"):
    """Drag the thumb of a slider to the left; it is not released."""
    slider(page, name).scroll_into_view_if_needed()
    box = slider(page, name).locator("xpath=../..").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    pointer.down(x, y)
    for step in range(STEPS):
        pointer.move(x - 2 * step, y)
        page.wait_for_timeout(30)


def wait_for_live_image(page, urls):
    """Wait until the image of the slider's value is displayed, not yet by the page's script."""
    value = float(slider(page).get_attribute("aria-valuetext"))
    for _ in range(WAIT // 50):
        if urls and value_in(urls[-1]) == value:
            break
        page.wait_for_timeout(50)
    expect(page.locator("img.after")).to_have_attribute("src", re.compile("^blob:"), timeout=WAIT)
    page.wait_for_timeout(100)
    return value


def displayed_pixels(page):
    encoded = page.locator("img.after").evaluate(
        """async (image) => {
            const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
            return Array.from(bytes);
        }"""
    )
    return decode_pixels(bytes(encoded))


@pytest.mark.parametrize("pointer", [Mouse, Touch])
def test_the_image_follows_the_drag_and_ends_at_the_released_strength(visit, server, pointer):
    page = visit(has_touch=pointer is Touch)
    urls, old = live_requests(page), edited_digest(page)
    hand = pointer(page)
    drag(page, hand)
    value = wait_for_live_image(page, urls)
    assert value < 5
    assert len(urls) >= 3 and len({value_in(url) for url in urls}) == len(urls)
    with Client(server.grpc_url) as client:
        edit = replace(client.domain().preset("Sunglasses"), strength=value)
        expected = decode_pixels(client.edit(client.invert(AVATAR).w_plus, edit).picture)
    assert mean_difference(displayed_pixels(page), expected) < 1
    hand.up()
    wait_for_change(page, old)
    assert float(slider(page).get_attribute("aria-valuetext")) == value
    assert mean_difference(edited_pixels(page), expected) < 1


def test_the_image_follows_the_keyboard_and_the_other_slider(page):
    urls, old = live_requests(page), edited_digest(page)
    press_slider_key(page, "How focused", "ArrowLeft", 3)
    weaker = wait_for_change(page, old)
    press_slider_key(page, "How strong", "ArrowLeft", 3)
    wait_for_change(page, weaker)
    assert any("field=threshold" in url for url in urls)
    assert any("field=strength" in url for url in urls)


def test_without_live_images_the_image_changes_on_release(page):
    page.route("**/live/**", lambda route: route.abort())
    old = edited_digest(page)
    hand = Mouse(page)
    drag(page, hand)
    assert edited_digest(page) == old
    hand.up()
    wait_for_change(page, old)


def test_two_users_do_not_get_each_others_images(visit, running_page):
    first, second = visit(), visit()
    urls = [live_requests(tab) for tab in (first, second)]
    for tab in (first, second):
        press_slider_key(tab, "How strong", "ArrowLeft", 2)
        wait_until_idle(tab)
    paths = [{re.search("/live/([^?]+)", url)[1] for url in found} for found in urls]
    assert len(paths[0]) == len(paths[1]) == 1 and paths[0] != paths[1]


def test_what_is_no_live_edit_is_refused(page, running_page):
    urls = live_requests(page)
    press_slider_key(page, "How strong", "ArrowLeft")
    wait_until_idle(page)
    base = urls[0].partition("?")[0]
    get = build_opener(ProxyHandler({}))
    get.open(f"{base}?edit=0&field=strength&value=1").close()
    for query in (
        "", "edit=99&field=strength&value=1", "edit=-1&field=strength&value=1",
        "edit=0&field=neutral&value=1", "edit=0&field=strength&value=nan",
        "edit=0&field=strength&value=21", "edit=x&field=strength&value=1",
    ):  # fmt: skip
        assert status(get, f"{base}?{query}") == 400, query
    unknown = f"{running_page.url}/live/unknown?edit=0&field=strength&value=1"
    assert status(get, unknown) == 404


def status(opener, url):
    with pytest.raises(HTTPError) as caught:
        opener.open(url)
    return caught.value.code
