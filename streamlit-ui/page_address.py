"""The edits in the page's address: a reload, or another browser, goes on with them.

The address has the recipe and the name of a sample, never a photo of the user. The browser replaces
it without an entry in its history (Streamlit's own query parameters would add one for each move of
a slider).
"""

from __future__ import annotations

import base64
import json
from urllib.parse import urlencode

import streamlit as st
from error_messages import describe_error
from photos import load_samples
from session import Session

from styleclip_client import Domain, StyleclipError
from styleclip_client.recipe import Recipe

_RECIPE, _PHOTO = "recipe", "photo"
_OWN_PHOTO = "own"
_CHARACTERS = 6000  # longer addresses are cut off by some programs

_JS = """
export default function({ data }) {
  if (location.search !== data.query) {
    history.replaceState(history.state, "", location.pathname + data.query + location.hash);
  }
}
"""

_component = st.components.v2.component("styleclip_address", js=_JS)


def show_in_address(session: Session) -> None:
    """Put the session's edits into the address."""
    values = {}
    if session.photo:
        values[_PHOTO] = session.photo.title if session.photo.sample else _OWN_PHOTO
    try:
        recipe = session.to_recipe()
    except StyleclipError:  # texts that are being typed
        return
    if recipe:
        text = json.dumps(json.loads(recipe.to_json()), ensure_ascii=False, separators=(",", ":"))
        values[_RECIPE] = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    query = "?" + urlencode(values)
    if len(query) > _CHARACTERS:
        query = "?" + urlencode({_PHOTO: values.get(_PHOTO, "")})
    _component(key="address", data={"query": query}, height="content")


def restore_from_address(session: Session, domain: Domain) -> None:
    """Begin a session with the edits and the sample of the address, and say so."""
    photo, encoded = (st.query_params.get(name, "") for name in (_PHOTO, _RECIPE))
    for sample in load_samples(domain.align):
        if sample.title == photo:
            session.select_photo(sample)
    if not encoded:
        return
    try:
        text = base64.urlsafe_b64decode(encoded[:_CHARACTERS] + "==")
        session.load_recipe(Recipe.from_json(text))
    except StyleclipError as error:
        session.notice = f"The edits in the page's address cannot be used: {describe_error(error)}"
        return
    except ValueError:  # not base64
        session.notice = "The edits in the page's address cannot be used: it is cut off."
        return
    notices = ["Your edits were kept in the page's address.", session.notice]
    if photo == _OWN_PHOTO:
        notices.insert(1, "Your photo is nowhere stored: choose it again.")
    session.notice = " ".join(filter(None, notices))
