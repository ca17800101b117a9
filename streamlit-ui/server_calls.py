"""The page's way to the server: timed calls, answers kept in the session, errors in words.

Answers are kept under everything that they depend on, so a late one can only ever fill its own
place: the page shows the picture of the sliders as they stand, never that of an older position.
"""

from __future__ import annotations

import functools
import hashlib
import io
import itertools
import os
import re
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from PIL import Image

from styleclip_client import Client, Domain, Edit, Edited, Inverted, Status, StyleclipError
from styleclip_contract import errors

T = TypeVar("T")
_KEPT_BYTES = 64 * 2**20  # of answers, in each session
_TIMEOUT = 60.0
_STATUS_TIMEOUT = 3.0  # a server that does not say how it is counts as away
_MOST_FACES = 8

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
    message = message.replace("with ALIGN false", "with “Find the face first” switched off")
    return plain(message) + (" " + remedy if remedy else "")


def plain(text: str) -> str:
    """`text` for a place that reads Markdown: a picture named in it must not be fetched."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>~$:])", r"\\\1", text)


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


@dataclass(frozen=True)
class Photo:
    """The chosen picture: encoded as it came, how to read it, and a title for people."""

    data: bytes
    title: str
    align: bool
    face: int = -1
    sample: bool = False

    @functools.cached_property
    def digest(self) -> bytes:
        return _digest(self.data)


@dataclass
class Link:
    """One session's calls. `spent` is the milliseconds of each kind of call, the newest last."""

    address: str
    spent: list[tuple[str, float]] = field(default_factory=list)
    answers: OrderedDict[Hashable, tuple[Any, int]] = field(default_factory=OrderedDict)
    _lock: threading.Lock = field(default_factory=threading.Lock)  # downloads have their thread

    @property
    def client(self) -> Client:
        return _client(self.address)

    def status(self) -> Status:
        return self.client.within(_STATUS_TIMEOUT).status()

    def invert(self, domain: Domain, photo: Photo) -> Inverted:
        key = ("invert", domain.name, photo.digest, photo.align, photo.face)
        align, face = photo.align, photo.face
        return self._ask(key, lambda: self.client.invert(photo.data, align=align, face=face), _size)

    def faces(self, domain: Domain, photo: Photo) -> tuple[Inverted, ...]:
        """The faces of a photo, best first; none when there is but one, which one search tells."""

        def find() -> tuple[Inverted, ...]:
            found: list[Inverted] = []
            try:
                self.invert(domain, replace(photo, align=True, face=1))
                for face in range(_MOST_FACES):
                    found.append(self.invert(domain, replace(photo, align=True, face=face)))
            except (errors.FaceIndexOutOfRange, errors.NoFaceFound):
                pass
            return tuple(found)

        key = ("faces", domain.name, photo.digest)
        return self._keep(key, find, lambda found: sum(map(_size, found)))

    def edit(
        self, w_plus: NDArray[np.float32], edits: Sequence[Edit], format: str = "JPEG"
    ) -> Edited:
        """An inverted face, edited."""
        return self._ask(
            _edit_key(w_plus, edits, format),
            lambda: self.client.edit(w_plus, edits, format=format),
            lambda edited: len(edited.picture),
        )

    def has_edit(self, w_plus: NDArray[np.float32], edits: Sequence[Edit]) -> bool:
        """Whether `edit` would answer without asking the server."""
        return _edit_key(w_plus, edits, "JPEG") in self.answers

    def paste(
        self, photo: Photo, inverted: Inverted, edits: Sequence[Edit], format: str = "JPEG"
    ) -> Edited:
        """The whole photo with the edited face put back; nothing is inverted again."""
        return self._ask(
            ("paste", photo.digest, inverted.quad.tobytes(), tuple(edits), format),
            lambda: self.client.paste(photo.data, inverted, edits, format=format),
            lambda edited: len(edited.picture),
        )

    def direction(self, edits: Sequence[Edit]) -> NDArray[np.float32]:
        key = ("direction", tuple(edits))
        return self._ask(key, lambda: self.client.direction(edits), lambda delta: delta.nbytes)

    def drawn(self, what: Hashable, draw: Callable[[], bytes]) -> bytes:
        """A picture that the page makes itself, kept like the server's answers."""
        return self._keep(("drawn", what), draw, len)

    def forget(self) -> None:
        """Drop all answers: another model is being served."""
        with self._lock:
            self.answers.clear()

    def _ask(self, key: tuple[Any, ...], call: Callable[[], T], size: Callable[[T], int]) -> T:
        """The kept answer, or that of a timed call of the server."""

        def timed() -> T:
            start = time.perf_counter()
            answer = call()
            self.spent = [*self.spent[-199:], (key[0], 1000 * (time.perf_counter() - start))]
            return answer

        return self._keep(key, timed, size)

    def _keep(self, key: Hashable, make: Callable[[], T], size: Callable[[T], int]) -> T:
        with self._lock:
            kept = self.answers.get(key)
            if kept is not None:
                self.answers.move_to_end(key)
                return kept[0]
        made = make()
        with self._lock:
            self.answers[key] = (made, size(made))
            while sum(bytes_ for _, bytes_ in self.answers.values()) > _KEPT_BYTES:
                self.answers.popitem(last=False)
        return made


def _edit_key(
    w_plus: NDArray[np.float32], edits: Sequence[Edit], format: str
) -> tuple[str, bytes, tuple[Edit, ...], str]:
    return ("edit", _digest(w_plus.tobytes()), tuple(edits), format)


def jpeg(image: Image.Image, quality: int = 92) -> bytes:
    """A PIL picture as JPEG bytes, for showing."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()


def _size(inverted: Inverted) -> int:
    return inverted.w_plus.nbytes + inverted.quad.nbytes
