"""The page for everybody: with a keyboard, a screen reader, a phone, and ten people at once."""

from pathlib import Path

import pytest

pytest.importorskip("streamlit", reason="the page's packages are missing: make ui")
pytest.importorskip("playwright.sync_api", reason="playwright is missing: make test")
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from page_state import after, changed, choose, distance, edited_pixels, pixels, preset, upload
from styleclip_client import Client
from tools.browser import WAIT, press, settle

ROOT = Path(__file__).resolve().parents[2]
USERS = 10

# The accessible name of what has the focus, inside components too.
_FOCUS = """() => {
  let found = document.activeElement;
  while (found?.shadowRoot?.activeElement) found = found.shadowRoot.activeElement;
  return found.getAttribute("aria-label") || found.labels?.[0]?.textContent || found.textContent;
}"""


def serious(page):
    """What axe-core finds serious or critical: (rule, where) of each."""
    violations = Axe().run(page).response["violations"]
    return [
        (found["id"], node["target"], node["failureSummary"])
        for found in violations
        if found["impact"] in ("serious", "critical")
        for node in found["nodes"]
    ]


@pytest.mark.parametrize(
    ("scheme", "views"),
    [("light", ("Strengths", "grid", "Layers")), ("dark", ("Strengths", "Layers"))],
)
def test_axe_finds_nothing_serious(visit, scheme, views):
    page = visit(color_scheme=scheme)
    assert serious(page) == []
    for view in views:
        choose(page, view)
        settle(page)
        assert serious(page) == []
    choose(page, "Before")
    page.get_by_text("Server and timings").click()
    page.get_by_text("Load a recipe").click()
    page.get_by_role("button", name="Add another edit").click()
    settle(page)
    old = after(page)
    choose(page, "Upload")
    upload(page, ROOT / "demo/samples/photo-1.jpg")
    whole = changed(page, old)
    page.get_by_text("Find the face first", exact=True).click()
    changed(page, whole)
    page.locator(".stTextInput input").first.fill("a face")
    page.keyboard.press("Enter")  # the same as the other text: an error
    expect(page.locator(".stAlert").first).to_be_visible(timeout=WAIT)
    settle(page)
    assert serious(page) == []


def test_the_keyboard_reaches_everything_and_edits(page):
    reached = []
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.append(page.evaluate(_FOCUS) or "")
    for name in (
        "Before / after", "Divider", "Samples", "Sunglasses", "Edit 1", "Remove", "It should show",
        "The picture shows", "How strong", "How focused", "Add another edit", "JPEG", "Picture",
        "Recipe", "Make a GIF", "Load a recipe", "Back", "Server and timings",
    ):  # fmt: skip
        assert any(name in one for one in reached), (name, reached)
    old = after(page)
    page.locator(".st-key-preset button", has_text="Beard").focus()
    page.keyboard.press("Enter")
    bearded = changed(page, old)
    press(page, "How strong", "ArrowLeft")
    changed(page, bearded)


@pytest.mark.parametrize("size", [(390, 844), (1366, 768), (1920, 1080)], ids=str)
def test_the_first_look_fits_the_screen(visit, size):
    width, height = size
    page = visit(viewport={"width": width, "height": height})
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    box = page.locator(".pictures").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= width
    assert box["y"] + box["height"] <= height
    assert box["width"] >= min(300, width)
    page.get_by_role("slider", name="How focused").scroll_into_view_if_needed()
    settle(page)
    middle = """(picture) => {
        const box = picture.getBoundingClientRect();
        const [x, y] = [box.x + box.width / 2, box.y + box.height / 2];
        return picture.getRootNode().elementFromPoint(x, y).closest(".pictures") === picture;
    }"""
    assert page.locator(".pictures").evaluate(middle), "the picture is out of sight"


def test_ten_people_at_once_see_their_own_pictures_and_no_error(visit, server):
    with Client(server.grpc_url) as client:
        presets = client.domain().presets[:USERS]
        samples = sorted((ROOT / "demo/samples").glob("avatar-*.png"))
        latents = [client.invert(sample).w_plus for sample in samples]
        wanted = [(user % len(samples), preset_) for user, preset_ in enumerate(presets)]
        expected = [pixels(client.edit(latents[sample], preset_.edit).picture)
                    for sample, preset_ in wanted]  # fmt: skip
    pages = [visit(wait=False) for _ in range(USERS)]
    for page in pages:
        page.locator("img.after").wait_for()
    for page, (sample, _) in zip(pages, wanted, strict=True):
        page.get_by_role("button", name=str(sample + 1), exact=True).click()
    for page, (_, preset_) in zip(pages, wanted, strict=True):
        preset(page, preset_.title)
    for user, page in enumerate(pages):
        settle(page)
        shown = edited_pixels(page)
        distances = [distance(shown, picture) for picture in expected]
        assert distances[user] == min(distances) < 1, (user, distances)
        expect(page.locator(".stException, .stAlert")).to_have_count(0)
        texts = page.get_by_role("button", name="Back").count()
        assert texts <= 3  # the first look, the sample, the edit: nobody else's
