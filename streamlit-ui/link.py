"""The page's way to the server: timed calls, answers kept in the session, errors in words.

Answers are kept under everything that they depend on, so a late one can only ever fill its own
place: the page shows the picture of the sliders as they stand, never that of an older position.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import os
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from styleclip_client import Client, Domain, Edit, Inverted, Status, StyleclipError, errors

T = TypeVar("T")
_KEPT_BYTES = 64 * 2**20  # of answers, in each session
_TIMEOUT = 60.0

# What to do, for each error whose own message does not say it. The first class that fits counts.
_REMEDIES: tuple[tuple[type[StyleclipError], str], ...] = (
    (errors.NoFaceFound, "Try a photo in which a face is large, upright and seen from the front."),
    (errors.NotAnImage, "Choose a JPEG, PNG or WebP picture."),
    (errors.ImageTruncated, "The file seems to be damaged: choose another copy of it."),
    (errors.ImageTooLarge, "Make the picture smaller and choose it again."),
    (errors.FaceIndexOutOfRange, "Choose one of the faces that were found."),
    (errors.NoChannelLeft, "Move the focus slider (β) of this edit to the left."),
    (errors.SameTexts, "Let the two texts differ in what should change."),
    (errors.InvalidRecipe, "Choose a recipe that this page or the command line wrote."),
    (errors.LandmarksMissing, "Ask whoever runs the server to install the landmark model."),
    (errors.ServerUnavailable, "The page tries again by itself; your edits are kept."),
    (errors.DeadlineExceeded, "The server may be busy: try again in a moment."),
    (errors.ServerError, "Try again; if it stays, the server's log says more."),
)


def words(error: StyleclipError) -> str:
    """What went wrong and what to do, for people, safe to show as Markdown."""
    remedy = next((text for kind, text in _REMEDIES if isinstance(error, kind)), "")
    message = str(error).strip().rstrip(".")
    message = message[:1].upper() + message[1:] + "."
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~$:])", r"\\\1", message) + (
        " " + remedy if remedy else ""
    )


def server_address() -> str:
    """The address behind `--server`, as `make ui` gives it, else the one in STYLECLIP_SERVER."""
    arguments = sys.argv[1:]
    for option, value in itertools.pairwise(arguments):
        if option == "--server":
            return value
    return os.environ.get("STYLECLIP_SERVER") or "localhost:8001"


@st.cache_resource(show_spinner=False)
def _client(address: str) -> Client:
    """One connection for all sessions: it carries requests and keeps nothing of them."""
    return Client(address, timeout=_TIMEOUT)


@dataclass
class Link:
    """One session's calls. `spent` is the milliseconds of each kind of call, the newest last."""

    address: str
    spent: list[tuple[str, float]] = field(default_factory=list)
    answers: OrderedDict[Hashable, tuple[Any, int]] = field(default_factory=OrderedDict)

    @property
    def client(self) -> Client:
        return _client(self.address)

    def status(self) -> Status:
        return self.client.status()

    def invert(self, domain: Domain, photo: bytes, align: bool, face: int) -> Inverted:
        key = ("invert", domain.name, _digest(photo), align, face)
        return self._ask(key, lambda: self.client.invert(photo, align=align, face=face), _size)

    def edit(
        self, w_plus: NDArray[np.float32], edits: Sequence[Edit], format: str = "JPEG"
    ) -> tuple[bytes, list[int]]:
        """The picture of an inverted face, encoded, and the channels that each edit moved."""
        key = ("edit", _digest(w_plus.tobytes()), tuple(edits), format)

        def call() -> tuple[bytes, list[int]]:
            edited = self.client.edit(w_plus, edits, format=format)
            return edited.picture, edited.channels

        return self._ask(key, call, lambda answer: len(answer[0]))

    def edit_photo(
        self, photo: bytes, edits: Sequence[Edit], face: int, format: str = "JPEG"
    ) -> tuple[bytes, list[int]]:
        """The whole photo with the edited face pasted back."""
        key = ("paste", _digest(photo), tuple(edits), face, format)

        def call() -> tuple[bytes, list[int]]:
            edited = self.client.edit_photo(
                photo, edits, align=True, face=face, paste=True, format=format
            )
            return edited.picture, edited.channels

        return self._ask(key, call, lambda answer: len(answer[0]))

    def direction(self, edits: Sequence[Edit]) -> NDArray[np.float32]:
        key = ("direction", tuple(edits))
        return self._ask(key, lambda: self.client.direction(edits), lambda delta: delta.nbytes)

    def has_edit(self, w_plus: NDArray[np.float32], edits: Sequence[Edit]) -> bool:
        """Whether `edit` would answer without asking the server."""
        return ("edit", _digest(w_plus.tobytes()), tuple(edits), "JPEG") in self.answers

    def forget(self) -> None:
        """Drop all answers: another model is being served."""
        self.answers.clear()

    def _ask(self, key: Hashable, call: Callable[[], T], size: Callable[[T], int]) -> T:
        kept = self.answers.get(key)
        if kept is not None:
            self.answers.move_to_end(key)
            return kept[0]
        start = time.perf_counter()
        answer = call()
        self.spent = [
            *self.spent[-199:],
            (str(key[0]), 1000 * (time.perf_counter() - start)),  # type: ignore[index]
        ]
        self.answers[key] = (answer, size(answer))
        while sum(bytes_ for _, bytes_ in self.answers.values()) > _KEPT_BYTES:
            self.answers.popitem(last=False)
        return answer


def png(image: Any) -> bytes:
    """A PIL picture as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _size(inverted: Inverted) -> int:
    return inverted.w_plus.nbytes + inverted.quad.nbytes
