"""Whether a server can edit: `python -m styleclip_server.health`, for health checks and probes.

Triton's own readiness stays true when the process of a Python step has died, so a small image is
edited (the canary). Needs the client's packages only.
"""

from __future__ import annotations

import os
import sys

import click

from styleclip_contract.errors import StyleclipError
from styleclip_server.serving import canary


def _local_server() -> str:
    return f"localhost:{os.environ.get('STYLECLIP_GRPC_PORT') or 8001}"


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="Exit status: 0 the server can edit (or is too busy to), 1 it cannot.",
)
@click.option("--server", default=_local_server, show_default="localhost:8001",
              help="Its gRPC address, or https://… for HTTP.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=canary.TIMEOUT,
              metavar="SECONDS", help="Longest wait for the edit.")  # fmt: skip
def command(server: str, timeout: float) -> None:
    """Edit a small image on the server; the exit status says whether that works."""
    try:
        canary.check_server(server, timeout)
    except (StyleclipError, ValueError) as error:
        line = error.to_wire() if isinstance(error, StyleclipError) else str(error)
        print(f"styleclip-health: {line}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    command(prog_name="styleclip-health")
