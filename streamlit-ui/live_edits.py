"""Images while a slider is dragged: `GET live/<id>`, on the page's own address.

The browser asks for them itself, without a run of the page's script; the divider shows them. Since
they come from the page's address, they pass the gateway's login, and the server's address and token
stay here. What is edited stays here too; the browser knows it by a secret id.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from inverted_faces import fidelity_of
from server_address import parse_server_address, server_token
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from styleclip_client import AsyncClient, Edit, Edited, Inverted, StyleclipError
from styleclip_contract import errors

if TYPE_CHECKING:
    from photos import Photo

_FIELDS = ("strength", "threshold")
_SESSIONS = 256  # a latent has 37 kB, a face crop some 100 kB
_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class LiveEdits:
    """What a session shows: a face with its edits, and the photo if the face is pasted into it.

    `identity` changes nothing; it takes the place of edits that are all at 0.
    """

    inverted: Inverted
    edits: tuple[Edit, ...]
    identity: Edit
    photo: Photo | None = None

    def with_value(self, index: int, field: str, value: float) -> list[Edit]:
        """Return the edits with one number of one of them changed.

        Raises:
            LookupError: there is no such edit or number.
            StyleclipError: the number is not accepted.
        """
        if field not in _FIELDS or index < 0:
            raise LookupError
        edits = list(self.edits)
        edits[index] = replace(edits[index], **{field: value})
        return [edit for edit in edits if edit.strength or not edit.direction] or [self.identity]


class LiveImages:
    """Draws what the newest sessions show, by their ids."""

    def __init__(self) -> None:
        self._sessions: OrderedDict[str, LiveEdits] = OrderedDict()
        self._client: AsyncClient | None = None

    def put(self, live_id: str, edits: LiveEdits) -> None:
        """Set what a session shows."""
        self._sessions[live_id] = edits
        self._sessions.move_to_end(live_id)
        while len(self._sessions) > _SESSIONS:
            self._sessions.popitem(last=False)

    @asynccontextmanager
    async def connected(self, app: object) -> AsyncIterator[None]:
        """Keep a connection to the server while the page is served."""
        try:  # a busy server is asked again by the browser, with the strength of that moment
            client = AsyncClient(
                parse_server_address(), timeout=_TIMEOUT, token=server_token(), retries=0
            )
        except ValueError:  # the page says that it cannot parse the address
            yield
            return
        async with client as self._client:
            yield

    async def respond(self, request: Request) -> Response:
        """Return the image, JPEG, with another number (`field`) of an edit (its index)."""
        live = self._sessions.get(request.path_params["live_id"])
        if live is None or self._client is None:
            return Response(status_code=404)
        query = request.query_params
        try:
            index, value = int(query.get("edit", "")), float(query.get("value", ""))
            edits = live.with_value(index, query.get("field", ""), value)
            edited = await _edit(self._client, live, edits)
        except (LookupError, ValueError):
            return Response(status_code=400)
        except (errors.ServerUnavailable, errors.DeadlineExceeded):  # or busy, or slow
            return Response(status_code=503)
        except StyleclipError as error:
            return Response(str(error), 400, media_type="text/plain")
        # A JPEG is not worth compressing again; the image depends on what the session shows now.
        headers = {"Cache-Control": "no-store", "Content-Encoding": "identity"}
        return Response(edited.picture, media_type="image/jpeg", headers=headers)


async def _edit(client: AsyncClient, live: LiveEdits, edits: list[Edit]) -> Edited:
    fidelity = fidelity_of(live.inverted)
    if live.photo:
        return await client.paste(live.photo.data, live.inverted, edits, fidelity=fidelity)
    return await client.edit(live.inverted, edits, fidelity=fidelity)


LIVE_IMAGES = LiveImages()
ROUTE = Route("/live/{live_id}", LIVE_IMAGES.respond, methods=["GET"])
