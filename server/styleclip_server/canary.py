"""A small edit that shows whether a server works; its request IDs begin with `wire.CANARY`."""

from __future__ import annotations

import io

from PIL import Image

from styleclip_client import Client
from styleclip_contract.errors import DeadlineExceeded, ServerBusy
from styleclip_contract.wire import CANARY

TIMEOUT = 10.0  # seconds; the edit takes 0.1 to 0.3 on two cores


def check_server(address: str, timeout: float = TIMEOUT, token: str | None = None) -> None:
    """Edit a small image on the server. A server that is too busy to answer passes.

    Raises:
        StyleclipError: the server cannot edit.
        ValueError: `address` is not an address.
    """
    with Client(address, timeout, retries=0, token=token, name=CANARY) as client:
        answered = _answered_requests(client)
        try:
            _edit_small_image(client)
        except ServerBusy:
            return
        except DeadlineExceeded:
            # If other requests were answered in the meantime, the queue is just long;
            # otherwise the server hangs.
            if _answered_requests(client) == answered:
                raise


def _edit_small_image(client: Client) -> None:
    domain = client.domain()
    edit = domain.presets[0].edit if domain.presets else domain.edit("a smiling face")
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(buffer, "PNG")
    if domain.photos:
        client.edit_photo(buffer.getvalue(), edit, align=False)
    else:
        client.edit(client.sample(0), edit)


def _answered_requests(client: Client) -> int:
    return sum(timing.requests for timing in client.timings())
