"""Whether a server can edit: `python -m styleclip_server.health`, for health checks and probes.

Triton's own readiness stays true when the process of a Python step has died, so a small image is
edited (the canary). Needs the client's packages only.
"""

from __future__ import annotations

import os
import sys

import click
import httpx

from styleclip_contract.errors import (
    DeadlineExceeded,
    ServerUnavailable,
    StyleclipError,
    from_wire,
)
from styleclip_server import canary


def _check_local_server(timeout: float) -> None:
    """Ask the API server of this machine; its health check needs no token.

    Raises:
        StyleclipError: it is unreachable, or cannot edit.
    """
    port = os.environ.get("STYLECLIP_HTTP_PORT") or 8000
    url = f"http://localhost:{port}/healthz"
    try:
        response = httpx.get(url, timeout=timeout, trust_env=False)
    except httpx.TimeoutException as error:
        raise DeadlineExceeded(f"no answer from {url} within {timeout:g} s") from error
    except httpx.HTTPError as error:
        raise ServerUnavailable(f"no server answers at {url} ({error})") from error
    if response.status_code != 200:
        problem = response.json()
        raise from_wire(f"{problem['name']}: {problem['detail']}")


@click.command(
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    epilog="Exit status: 0 the server can edit (or is too busy to), 1 it cannot.",
)
@click.option("--server", metavar="URL", show_default="this machine's, by its HTTP port",
              help="Its gRPC address, or https://… for HTTP.")  # fmt: skip
@click.option("--token", envvar="STYLECLIP_TOKEN", show_envvar=True,
              help="For --server, where that needs one.")  # fmt: skip
@click.option("--timeout", type=click.FloatRange(0, min_open=True), default=canary.TIMEOUT,
              metavar="SECONDS", help="Longest wait for the edit.")  # fmt: skip
def command(server: str | None, token: str | None, timeout: float) -> None:
    """Edit a small image on the server; the exit status says whether that works."""
    try:
        if server is None:
            _check_local_server(timeout)
        else:
            canary.check_server(server, timeout, token)
    except (StyleclipError, ValueError) as error:
        line = error.to_wire() if isinstance(error, StyleclipError) else str(error)
        print(f"styleclip-health: {line}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    command(prog_name="styleclip-health")
