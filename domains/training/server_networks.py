"""A domain's networks on the real server, as a client reaches them: for quality reports.

Images are uint8 (N, r, r, 3), RGB.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from domains.training.served_networks import Images
from domains.training.text_pairs import TextPair
from styleclip_client import Client, Inverted
from styleclip_contract.edits import Edit
from styleclip_contract.errors import NoFaceFound
from styleclip_server.serving.options import Options
from styleclip_server.serving.supervisor import running_server

CONCURRENCY = 4  # requests
T = TypeVar("T")
R = TypeVar("R")


class ServerNetworks:
    """The networks behind a client, with the domain's default fidelity."""

    def __init__(self, client: Client) -> None:
        self.client = client

    def invert(self, photos: Iterable[bytes]) -> list[Inverted | None]:
        """Align and invert photos; None where no face is found."""
        return _map(self._invert, photos)

    def _invert(self, photo: bytes) -> Inverted | None:
        try:
            return self.client.invert(photo)
        except NoFaceFound:
            return None

    def reconstruct(self, faces: Iterable[Inverted]) -> Images:
        """Generate images of inverted faces."""
        return np.stack(_map(self.client.draw, faces))

    def edit(
        self, faces: Iterable[Inverted], pair: TextPair, strength: float, threshold: float
    ) -> Images:
        """Generate images of inverted faces, edited by a text pair."""
        edit = Edit(pair.neutral, pair.target, strength, threshold)
        return np.stack(_map(lambda face: self.client.draw(face, edit), faces))

    def paste(
        self, photo: bytes, face: Inverted, pair: TextPair, strength: float, threshold: float
    ) -> NDArray[np.uint8]:
        """Return a photo with the edited face pasted back, uint8 (h, w, 3)."""
        edit = Edit(pair.neutral, pair.target, strength, threshold)
        return self.client.paste(photo, face, edit, format="PNG").array()

    def sample(self, count: int) -> Images:
        """Generate images of random latents, without truncation."""
        return np.stack(
            _map(lambda seed: self.client.draw(self.client.sample(seed, 1.0)), range(count))
        )


@contextmanager
def serve(folder: Path) -> Iterator[ServerNetworks]:
    """Run a server of the domain in a folder within a `with` block."""
    with tempfile.TemporaryDirectory() as logs:
        options = Options(
            domain=folder.name,
            domains=folder.resolve().parent,
            log=Path(logs, "server.log"),
            max_concurrent=4 * CONCURRENCY,
        )
        with running_server(options, canary=0) as server, Client(server.grpc_url) as client:
            yield ServerNetworks(client)


def _map(function: Callable[[T], R], values: Iterable[T]) -> list[R]:
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        return list(pool.map(function, values))
