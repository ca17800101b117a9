"""What the page shows of the edits: before/after, sweeps, layers; what of it can be kept."""

from __future__ import annotations

from typing import Any

import streamlit as st
import thumbnails
from divider import Pair, divider
from layer_chart import chart
from photo_picker import crop, shown, size
from server_calls import plain, words
from state import Page, label
from sweeps import gif, grid, strip

from styleclip_client import Domain, Edit, Edited, StyleclipError
from styleclip_client.recipe import RECIPE_BYTES, Recipe
from styleclip_contract import errors

BESIDE = ("Your picture", "What it made of it")
VIEWS = ("Before / after", "Strengths", "α × β grid", "Layers")
_ENDINGS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


def show(page: Page, domain: Domain) -> None:
    """Draw the chosen view of the picture with the edits that are on."""
    photo = page.photo
    assert photo
    view = st.segmented_control(
        "View", VIEWS, default=VIEWS[0], required=True, key="view", label_visibility="collapsed"
    )
    above, picture, below = st.empty(), st.container(), st.empty()
    page.inverted = None  # that of an earlier picture, if this one cannot be read
    try:
        with below, st.spinner("Reading the picture", show_time=True):
            page.inverted = start = page.link.invert(domain, photo)
        edits = page.edits()
        if view == VIEWS[0] or not edits:
            if view != VIEWS[0]:
                st.info("Switch an edit on, or say what the picture should show.")
            _compare(page, domain, edits, picture, below)
            return
        with picture:
            which = _which(edits) if view in VIEWS[1:3] else 0
            if view == VIEWS[1]:
                _cancellable(lambda: strip(page.link, start.w_plus, edits, which))
            elif view == VIEWS[2]:
                _cancellable(lambda: grid(page.link, start.w_plus, edits, which))
            else:
                chart(page.link, domain, edits)
    except StyleclipError as error:
        if isinstance(error, errors.ServerUnavailable):
            page.failed = True
        above.error(words(error))
        if page.shown:
            with picture:
                divider(page.shown, "Last picture")


def nothing(domain: Domain) -> list[Edit]:
    """An edit of strength 0: what the generator draws for the latent as it is."""
    return [Edit(domain.neutral, f"{domain.neutral} smiling", 0.0, 0.0)]


def _compare(page: Page, domain: Domain, edits: list[Edit], picture: Any, below: Any) -> None:
    photo, start = page.photo, page.inverted
    assert photo and start
    with picture:
        paste = photo.align and st.toggle(
            "Paste back into the photo",
            key="paste",
            help="The whole photo, with the edited face put back where it was.",
        )
    with below, st.spinner("Drawing", show_time=True):
        edited = _edited(page, edits or nothing(domain), paste)
    page.shown, page.failed = _pair(page, domain, edited.picture, edits, paste), False
    with picture:
        divider(page.shown)
    if edits:
        counts = " + ".join(str(count) for count in edited.channels)
        below.caption(f"{counts} of {sum(domain.style_channels)} channels are moved.")
    recipe = page.recipe()
    if edits and recipe:
        page.remember(recipe, thumbnails.thumbnail(edited.picture, 184))


def _pair(page: Page, domain: Domain, after: bytes, edits: list[Edit], paste: bool) -> Pair:
    photo, start = page.photo, page.inverted
    assert photo and start
    text = ", ".join(edit.target for edit in edits) or "nothing is changed"
    subject = f"{photo.title} {photo.digest.hex()} {photo.face} {paste}"
    if paste:
        width, height = size(photo.data)
        middle = 100 * float(start.quad[:, 0].mean()) / width
        return Pair(shown(page.link, photo), after, text, subject, width / height, middle)
    if st.session_state.get("beside") == BESIDE[1]:
        before = page.link.edit(start.w_plus, nothing(domain)).picture
    else:
        before = crop(page.link, photo, start)
    return Pair(before, after, text, subject)


def _edited(page: Page, edits: list[Edit], paste: bool, format: str = "JPEG") -> Edited:
    assert page.photo and page.inverted
    if paste:
        return page.link.paste(page.photo, page.inverted, edits, format)
    return page.link.edit(page.inverted.w_plus, edits, format)


def understood(page: Page, domain: Domain) -> None:
    """Draw the face that the encoder was given beside what the generator makes of its latent."""
    photo, start = page.photo, page.inverted
    if photo is None or start is None:
        return
    try:
        given = crop(page.link, photo, start)
        inverted = page.link.edit(start.w_plus, nothing(domain)).picture
    except StyleclipError:
        return  # said above, where the edit failed too
    st.header("What the encoder understood")
    with st.container(horizontal=True, gap="small"):
        for picture, text in ((given, "The face it was given"), (inverted, "What it made of it")):
            with st.container(width=160):
                thumbnails.show(picture, text, 160, caption=text)
    st.segmented_control(
        "Compare the edit with",
        BESIDE,
        default=BESIDE[0],
        required=True,
        key="beside",
        help="The generator can only change what the encoder understood of your picture.",
    )


def _which(edits: list[Edit]) -> int:
    if len(edits) == 1:
        return 0
    chosen = st.selectbox(
        "Vary", range(len(edits)), format_func=lambda n: f"Edit {n + 1}: {label(edits[n])}"
    )
    return int(chosen or 0)


def _cancellable(work: object) -> None:
    """Do long work under a button that ends it: any touch of the page interrupts the script."""
    place = st.empty()
    place.button("Cancel", icon=":material/close:", on_click=_back)
    work()  # type: ignore[operator]
    place.empty()


def _back() -> None:
    st.session_state.view = VIEWS[0]


def keep(page: Page, domain: Domain) -> None:
    """Draw the downloads, the recipe and the history."""
    try:
        edits, recipe = page.edits(), page.recipe()
    except StyleclipError:
        return  # said beside the edit
    st.header("Keep")
    paste = bool(page.photo and page.photo.align and st.session_state.get("paste"))
    row, making = st.container(horizontal=True, vertical_alignment="center"), st.container()
    with row:
        format = st.segmented_control(
            "Format of the picture",
            list(_ENDINGS),
            default="JPEG",
            required=True,
            key="format",
            label_visibility="collapsed",
        )
        st.download_button(
            "Picture",
            # Made at the click, so that a slider needs no second picture in this format.
            lambda: _edited(page, edits or nothing(domain), paste, format).picture,
            f"styleclip.{_ENDINGS[format]}",
            f"image/{format.lower()}",
            icon=":material/download:",
            on_click="ignore",
            disabled=page.inverted is None,
            help="At the full resolution of the model; pasted back, of your photo.",
            key="download",
        )
        st.download_button(
            "Recipe",
            recipe.to_json() if recipe else "",
            "styleclip-recipe.json",
            "application/json",
            icon=":material/receipt_long:",
            on_click="ignore",
            disabled=not recipe,
            help="The texts and numbers, without your picture: to load again or to share.",
            key="download-recipe",
        )
        _gif(page, edits, making)
    with st.expander("Load a recipe"):
        given = st.file_uploader(
            "A recipe that this page or the command line wrote (JSON)",
            type=["json"],
            max_upload_size=1,
            key="recipe",
        )
        _load(page, given)


def _gif(page: Page, edits: list[Edit], making: Any) -> None:
    start = page.inverted
    now = (start.w_plus.tobytes() if start else b"", tuple(edits))
    if page.gif and page.gif[0] == now:
        st.download_button(
            "GIF", page.gif[1], "styleclip.gif", "image/gif",
            icon=":material/download:", on_click="ignore", key="download-gif",
        )  # fmt: skip
        return
    if not st.button(
        "Make a GIF",
        icon=":material/animation:",
        disabled=not edits or start is None,
        help="From no change to the full strength and back.",
    ):
        return
    assert start
    bar = making.progress(0.0, "Making the GIF")
    # A click ends this run of the script, and with it the work.
    making.button("Cancel", icon=":material/close:", key="cancel-gif")
    try:
        page.gif = (now, gif(page.link, start.w_plus, edits, bar.progress))
    except StyleclipError as error:
        st.error(words(error))
        return
    st.rerun()


def _load(page: Page, given: object) -> None:
    if given is None:
        page.applied.pop("recipe", None)
        return
    file_id = str(given.file_id)  # type: ignore[attr-defined]
    if page.applied.get("recipe") == file_id:
        return
    try:
        data = given.getvalue()  # type: ignore[attr-defined]
        recipe = Recipe.from_json(data[: RECIPE_BYTES + 1])
    except StyleclipError as error:
        st.error(words(error))
        return
    page.applied["recipe"] = file_id
    page.apply(recipe)
    st.rerun()


def history(page: Page) -> None:
    """Draw the session's results, the newest first, each with a button to go back to it."""
    if not page.history:
        return
    st.header("History")
    with st.container(horizontal=True, gap="small"):
        for number, entry in reversed(list(enumerate(page.history, 1))):
            text = ", ".join(edit.target for edit in entry.recipe.edits)
            with st.container(width=92, gap="xsmall"):
                thumbnails.show(entry.thumbnail, text, 92)
                st.button(
                    f"Back to {number}",
                    key=f"history-{number}",
                    help=f"Go back to: {plain(text)}",
                    width="stretch",
                    on_click=page.go_back,
                    args=(entry,),
                )
    if not page.kept and st.button(
        "Keep the newest as it is",
        help="Moving a slider changes the newest entry; kept, it stays and a new one begins.",
    ):
        page.kept = True
        st.rerun()
