"""Whether a server can edit: `python -m styleclip_server.health`, for health checks and probes.

Triton's own readiness stays true when the process of a Python step has died, so a small image is
edited (the canary). Needs the client's packages only.
"""

from __future__ import annotations

import io
import os
import sys

import click
from PIL import Image

from styleclip_client import Client
from styleclip_contract.errors import DeadlineExceeded, ServerBusy, StyleclipError
from styleclip_contract.wire import CANARY

TIMEOUT = 10.0  # seconds; the edit takes 0.1 to 0.3 on two cores


def check(address: str, timeout: float = TIMEOUT) -> None:
    """Edits a small image on the server. A server that is too busy to answer passes.

    Raises:
        StyleclipError: the server cannot edit.
        ValueError: it is no address.
    """
    with Client(address, timeout, retries=0, name=CANARY) as client:
        answered = _answered_requests(client)
        try:
            _edit_small_image(client)
        except ServerBusy:
            return
        except DeadlineExceeded:
            # A server that answered others meanwhile has a long queue; else it hangs.
            if _answered_requests(client) == answered:
                raise


def _edit_small_image(client: Client) -> None:
    domain = client.domain()
    edit = domain.presets[0].edit if domain.presets else domain.edit("a smiling face")
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(buffer, "PNG")
    client.edit_photo(buffer.getvalue(), edit, align=False)


def _answered_requests(client: Client) -> int:
    return sum(timing.requests for timing in client.timings())


def _local_server() -> str:
    return f"localhost:{os.environ.get('STYLECLIP_GRPC_PORT') or 8001}"


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="Exit status: 0 the server can edit (or is too busy to), 1 it cannot.",
)
@click.option("--server", default=_local_server, show_default="localhost:8001",
              help="Its gRPC address, or https://… for HTTP.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=TIMEOUT,
              metavar="SECONDS", help="Longest wait for the edit.")  # fmt: skip
def command(server: str, timeout: float) -> None:
    """Edit a small image on the server; the exit status says whether that works."""
    try:
        check(server, timeout)
    except (StyleclipError, ValueError) as error:
        line = error.to_wire() if isinstance(error, StyleclipError) else str(error)
        print(f"styleclip-health: {line}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    command(prog_name="styleclip-health")
