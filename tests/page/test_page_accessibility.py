"""The page with a keyboard, a screen reader, a phone, and several people at once."""

import pytest

from paths import SAMPLES

pytest.importorskip("streamlit", reason="the page's packages are missing: make ui")
pytest.importorskip("playwright.sync_api", reason="playwright is missing: make test")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from page_state import (
    choose_option,
    choose_preset,
    digest_of,
    edited_digest,
    upload_file,
    wait_for_change,
    wait_for_digest,
)
from styleclip_client import Client
from tools.browser import press_slider_key, wait_until_idle

USERS = 5

# The accessible name of the focused element, also inside components.
_FOCUS = """() => {
  let focused = document.activeElement;
  while (focused?.shadowRoot?.activeElement) focused = focused.shadowRoot.activeElement;
  return focused.getAttribute("aria-label") || focused.labels?.[0]?.textContent
    || focused.textContent;
}"""


def serious_violations(page):
    """What axe-core finds serious or critical: rule, element and summary of each."""
    violations = Axe().run(page).response["violations"]
    return [
        (violation["id"], node["target"], node["failureSummary"])
        for violation in violations
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"]
    ]


@pytest.mark.parametrize(
    ("scheme", "views"),
    [("light", ("Strengths", "grid", "Layers")), ("dark", ("Strengths", "Layers"))],
)
def test_axe_finds_nothing_serious(visit, scheme, views):
    page = visit(color_scheme=scheme)
    # The badge fades while a slow server is asked for its status, every few seconds.
    page.add_style_tag(content="[data-stale=true] { opacity: 1 !important; }")
    assert serious_violations(page) == []
    for view in views:
        choose_option(page, view)
        wait_until_idle(page)
        assert serious_violations(page) == []
    choose_option(page, "Before")
    page.get_by_text("Server and timings").click()
    page.get_by_text("Load a recipe").click()
    page.get_by_role("button", name="Add another edit").click()
    wait_until_idle(page)
    old = edited_digest(page)
    choose_option(page, "Upload")
    upload_file(page, SAMPLES / "photo-1.jpg")
    complete = wait_for_change(page, old)
    page.get_by_text("Find the face first", exact=True).click()
    wait_for_change(page, complete)
    page.locator(".stTextInput input").first.fill("a face")
    page.keyboard.press("Enter")  # the same as the other text: an error
    expect(page.locator(".stAlert").first).to_be_visible()
    wait_until_idle(page)
    assert serious_violations(page) == []


def test_the_keyboard_reaches_everything_and_edits(page):
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(_FOCUS) or "")
    for name in (
        "Before / after", "Divider", "Samples", "Sunglasses", "Edit 1", "Remove", "It should show",
        "The photo shows", "How strong", "How focused", "Add another edit", "JPEG", "Image",
        "Recipe", "Make a GIF", "Load a recipe", "Back", "Server and timings",
    ):  # fmt: skip
        assert any(name in one for one in reached), (name, reached)
    old = edited_digest(page)
    page.locator(".st-key-preset button", has_text="Beard").focus()
    page.keyboard.press("Enter")
    bearded = wait_for_change(page, old)
    press_slider_key(page, "How strong", "ArrowLeft")
    wait_for_change(page, bearded)


@pytest.mark.parametrize("size", [(390, 844), (1366, 768), (1920, 1080)], ids=str)
def test_the_first_view_fits_the_screen(visit, size):
    width, height = size
    page = visit(viewport={"width": width, "height": height})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    box = page.locator(".images").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert box["y"] + box["height"] <= height
    assert box["width"] >= min(300, width)
    page.get_by_role("slider", name="How focused").scroll_into_view_if_needed()
    wait_until_idle(page)
    is_visible = """(image) => {
        const box = image.getBoundingClientRect();
        const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
        return image.getRootNode().elementFromPoint(x, y).closest(".images") === image;
    }"""
    assert page.locator(".images").evaluate(is_visible), "the image is out of sight"


def test_people_at_the_same_time_see_their_own_images_and_no_error(visit, server):
    with Client(server.grpc_url) as client:
        presets = client.domain().presets[:USERS]
        samples = sorted(SAMPLES.glob("avatar-*.png"))
        latents = [client.invert(sample).w_plus for sample in samples]
        choices = [(user % len(samples), preset) for user, preset in enumerate(presets)]
        expected = [digest_of(client.edit(latents[sample], preset.edit).picture)
                    for sample, preset in choices]  # fmt: skip
    assert len(set(expected)) == USERS
    pages = [visit(wait=False) for _ in range(USERS)]
    for page in pages:
        page.locator("img.after").wait_for()
    for page, (sample, _) in zip(pages, choices, strict=True):
        page.get_by_role("button", name=str(sample + 1), exact=True).click()
    for page, (_, preset) in zip(pages, choices, strict=True):
        choose_preset(page, preset.title)
    for user, page in enumerate(pages):
        wait_for_digest(page, expected[user])
        expect(page.locator(".stException, .stAlert")).to_have_count(0)
        results = page.get_by_role("button", name="Back").count()
        assert results <= 3  # the first view, the sample, the edit: none of another session
