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

from drags import (
    Mouse,
    Touch,
    drag,
    press_until_image_follows,
    record_live_images,
    slider_value,
    value_in,
    wait_for_live_image,
    wait_while_page_runs,
)
from page_state import digest_of, edited_digest, wait_for_change
from styleclip_client import Client


def displayed_image(page):
    """Return the displayed image, live or not; encoded."""
    encoded = page.locator("img.after").evaluate(
        """async (image) => {
            const bytes = new Uint8Array(await (await fetch(image.src)).arrayBuffer());
            return Array.from(bytes);
        }"""
    )
    return bytes(encoded)


@pytest.mark.parametrize("pointer", [Mouse, Touch])
def test_the_image_follows_the_drag_and_ends_at_the_released_strength(visit, server, pointer):
    page = visit(has_touch=pointer is Touch)
    urls, old = record_live_images(page), edited_digest(page)
    hand = pointer(page)
    drag(page, hand, lambda: wait_for_live_image(page, urls))
    value = slider_value(page)
    assert value < 5
    assert len(urls) >= 3 and len({value_in(url) for url in urls}) == len(urls)
    with Client(server.grpc_url) as client:
        edit = replace(client.domain().preset("Sunglasses"), strength=value)
        expected = client.edit(client.invert(AVATAR).w_plus, edit).picture
    wait_while_page_runs(page, lambda: displayed_image(page) == expected)
    expect(page.locator("img.after")).to_have_attribute("src", re.compile("^blob:"))
    hand.up()
    assert wait_for_change(page, old) == digest_of(expected)
    assert slider_value(page) == value


def test_the_image_follows_the_keyboard_and_the_other_slider(page):
    urls, old = record_live_images(page), edited_digest(page)
    press_until_image_follows(page, urls, "How focused", "threshold")
    weaker = wait_for_change(page, old)
    press_until_image_follows(page, urls, "How strong", "strength")
    wait_for_change(page, weaker)


def test_without_live_images_the_image_changes_on_release(page):
    aborted, old = [], edited_digest(page)

    def abort(route):
        aborted.append(route.request.url)
        route.abort()

    page.route("**/live/**", abort)
    hand = Mouse(page)
    drag(page, hand, lambda: wait_while_page_runs(page, lambda: aborted))
    assert edited_digest(page) == old
    hand.up()
    wait_for_change(page, old)


def test_two_users_do_not_get_each_others_images(visit, running_page):
    first, second = visit(), visit()
    urls = [record_live_images(tab) for tab in (first, second)]
    for tab, tab_urls in zip((first, second), urls, strict=True):
        press_until_image_follows(tab, tab_urls)
    paths = [{re.search("/live/([^?]+)", url)[1] for url in tab_urls} for tab_urls in urls]
    assert len(paths[0]) == len(paths[1]) == 1 and paths[0] != paths[1]


def test_an_invalid_live_request_is_refused(page, running_page):
    urls = record_live_images(page)
    press_until_image_follows(page, urls)
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
