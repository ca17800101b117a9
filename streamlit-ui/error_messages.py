"""Texts for the page: errors with their remedy, and text that Markdown must not interpret."""

from __future__ import annotations

import re

from styleclip_client import StyleclipError
from styleclip_contract import errors

# The first class that matches applies. Errors without an entry name their remedy themselves.
_REMEDIES: tuple[tuple[type[StyleclipError], str], ...] = (
    (errors.NoFaceFound, "Try a photo in which a face is large, upright and seen from the front."),
    (errors.NotAnImage, "Choose a JPEG, PNG or WebP image."),
    (errors.ImageTruncated, "The file seems to be damaged: choose another copy of it."),
    (errors.ImageTooLarge, "Make the image smaller and choose it again."),
    (errors.FaceIndexOutOfRange, "Choose one of the detected faces."),
    (errors.NoChannelLeft, "Move the focus slider (β) of this edit to the left."),
    (errors.SameTexts, "Let the two texts differ in what should change."),
    (errors.InvalidRecipe, "Choose a recipe that this page or the command line wrote."),
    (errors.LandmarksMissing, "Ask whoever runs the server to install the landmark model."),
    (errors.ServerUnavailable, "The page tries again by itself; your edits are kept."),
    (errors.DeadlineExceeded, "The server may be busy: try again in a moment."),
    (errors.ServerError, "Try again; if the error persists, check the server's log."),
)


def describe_error(error: StyleclipError) -> str:
    """Return what went wrong and what to do about it, safe to show as Markdown."""
    remedy = next((text for kind, text in _REMEDIES if isinstance(error, kind)), "")
    message = str(error).strip().rstrip(".")
    message = message[:1].upper() + message[1:] + "."
    # The server's pipeline.alignment names its tensor; the page has a switch.
    message = message.replace("with ALIGN false", "with “Find the face first” switched off")
    return escape_markdown(message) + (" " + remedy if remedy else "")


def escape_markdown(text: str) -> str:
    """Escape Markdown in untrusted text, so that an image it names is not fetched."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~$:])", r"\\\1", text)
