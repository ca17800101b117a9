"""One session's calls to the server: timed, and cached by everything the response depends on.

A late response can thus only fill its own cache entry: the page shows the image of the current
slider positions, never that of an older position.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import streamlit as st
from cache import SessionCache
from inverted_faces import face_digest, fidelity_of
from numpy.typing import NDArray
from photos import Photo, compute_digest
from server_address import server_token

from styleclip_client import Client, Domain, Edit, Edited, Inverted, Status
from styleclip_contract import errors, limits

T = TypeVar("T")
_TIMEOUT = 60.0  # seconds
_STATUS_TIMEOUT = 3.0  # seconds; a server that takes longer counts as unavailable
_MAX_FACES = 8
_MAX_TIMES = 200


@st.cache_resource(show_spinner=False)
def _connect(address: str) -> Client:
    """Open one connection for all sessions; it keeps nothing of their requests."""
    return Client(address, timeout=_TIMEOUT, token=server_token())


@dataclass
class ServerSession:
    """One session's access to the server.

    `call_times` has the kind and milliseconds of each call, the newest last.
    """

    address: str
    cache: SessionCache
    call_times: list[tuple[str, float]] = field(default_factory=list)

    @property
    def client(self) -> Client:
        return _connect(self.address)

    def status(self) -> Status:
        return self.client.within(_STATUS_TIMEOUT).status()

    def invert(self, domain: Domain, photo: Photo) -> Inverted:
        """Invert a face, with its crop where the domain has features."""
        fidelity = limits.FEATURES if limits.FEATURES in domain.fidelities else limits.LATENT
        key = ("invert", domain.name, photo.digest, photo.align, photo.face, fidelity)
        options: dict[str, Any] = {"align": photo.align, "face": photo.face, "fidelity": fidelity}
        return self._call(key, lambda: self.client.invert(photo.data, **options), _inverted_bytes)

    def invert_faces(self, domain: Domain, photo: Photo) -> tuple[Inverted, ...]:
        """Invert up to 8 faces of a photo, best first; empty for a photo of a single face."""

        def compute() -> tuple[Inverted, ...]:
            inverted: list[Inverted] = []
            try:
                # Face 1 exists only in a photo of several: one call suffices for most photos.
                self.invert(domain, replace(photo, align=True, face=1))
                for face in range(_MAX_FACES):
                    inverted.append(self.invert(domain, replace(photo, align=True, face=face)))
            except (errors.FaceIndexOutOfRange, errors.NoFaceFound):
                pass
            return tuple(inverted)

        key = ("faces", domain.name, photo.digest)
        return self.cache.get_or_compute(
            key, compute, lambda faces: sum(map(_inverted_bytes, faces))
        )

    def edit(self, face: Inverted, edits: Sequence[Edit], format: str = "JPEG") -> Edited:
        """Edit an inverted face."""
        fidelity = fidelity_of(face)
        return self._call(
            _edit_key(face, edits, format),
            lambda: self.client.edit(face, edits, format=format, fidelity=fidelity),
            lambda edited: len(edited.picture),
        )

    def has_cached_edit(self, face: Inverted, edits: Sequence[Edit]) -> bool:
        """Return whether `edit` would respond without calling the server."""
        return _edit_key(face, edits, "JPEG") in self.cache

    def paste(
        self, photo: Photo, inverted: Inverted, edits: Sequence[Edit], format: str = "JPEG"
    ) -> Edited:
        """Edit an inverted face and paste it back into its photo."""
        fidelity = fidelity_of(inverted)
        return self._call(
            ("paste", photo.digest, inverted.quad.tobytes(), fidelity, tuple(edits), format),
            lambda: self.client.paste(
                photo.data, inverted, edits, format=format, fidelity=fidelity
            ),
            lambda edited: len(edited.picture),
        )

    def direction(self, edits: Sequence[Edit], w_plus: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the StyleSpace offset of the edits of a face, float32 [S]."""
        key = ("direction", compute_digest(w_plus.tobytes()), tuple(edits))
        return self._call(
            key, lambda: self.client.direction(edits, w_plus), lambda delta: delta.nbytes
        )

    def _call(self, key: tuple[Any, ...], call: Callable[[], T], measure: Callable[[T], int]) -> T:
        """Return the cached response, or that of a timed call."""

        def timed_call() -> T:
            start = time.perf_counter()
            response = call()
            milliseconds = 1000 * (time.perf_counter() - start)
            self.call_times = [*self.call_times[1 - _MAX_TIMES :], (key[0], milliseconds)]
            return response

        return self.cache.get_or_compute(key, timed_call, measure)


def _edit_key(
    face: Inverted, edits: Sequence[Edit], format: str
) -> tuple[str, bytes, tuple[Edit, ...], str]:
    return ("edit", face_digest(face), tuple(edits), format)


def _inverted_bytes(inverted: Inverted) -> int:
    return inverted.w_plus.nbytes + inverted.quad.nbytes + len(inverted.crop or b"")
