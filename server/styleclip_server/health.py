"""Whether a server can edit: `python -m styleclip_server.health`, for health checks and probes.

Triton's own readiness stays true when the process of a Python step has died, so a small picture
is edited. Needs the client's packages only.
"""

from __future__ import annotations

import io
import os
import sys

import click
from PIL import Image

from styleclip_client import Client
from styleclip_contract.errors import DeadlineExceeded, ServerBusy, StyleclipError

TIMEOUT = 10.0  # seconds; a small picture takes 0.1 to 0.3 on two cores


def edit_canary(client: Client) -> None:
    """Edits a small picture; raises a StyleclipError when it cannot be done."""
    domain = client.domain()
    edit = domain.presets[0].edit if domain.presets else domain.edit("a smiling face")
    client.edit_photo(_canary(), edit, align=False)


def check(client: Client) -> None:
    """Raises a StyleclipError unless the server edits; one that is too busy to answer is well."""
    edited = _edited(client)
    try:
        edit_canary(client)
    except ServerBusy:
        return
    except DeadlineExceeded:
        # Behind a long queue, or hanging? Who edited for others meanwhile is busy.
        if _edited(client) == edited:
            raise


def _edited(client: Client) -> int:
    """How many requests the server has answered."""
    return sum(timing.requests for timing in client.timings())


def _canary() -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def _here() -> str:
    return f"localhost:{os.environ.get('STYLECLIP_GRPC_PORT') or 8001}"


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="Exit status: 0 it can edit (or is too busy to show it), 1 it cannot.",
)
@click.option("--server", default=_here, show_default="localhost:8001", help="Its address.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=TIMEOUT,
              metavar="SECONDS", help="Longest wait for the edit.")  # fmt: skip
def command(server: str, timeout: float) -> None:
    """Edit a small picture on the server and say by the exit status whether that works."""
    try:
        with Client(server, timeout, retries=0, name="canary") as client:
            check(client)
    except (StyleclipError, ValueError) as error:
        line = error.to_wire() if isinstance(error, StyleclipError) else str(error)
        print(f"styleclip-health: {line}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    command(prog_name="styleclip-health")
