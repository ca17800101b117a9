"""`python -m styleclip_server.api SETTINGS`: the API server, started by the launcher."""

from __future__ import annotations

import resource
import socket
import sys
from pathlib import Path

import uvicorn

from styleclip_server.api.app import create_app
from styleclip_server.api.http_connections import BoundedConnection
from styleclip_server.api.settings import Settings

BACKLOG = 2048  # connections that wait to be accepted
OPEN_FILES = 8192  # the connections of all ports and those to Triton


def main(path: Path) -> None:
    """Serve until a signal comes; requests under way are finished."""
    settings = Settings.load(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, OPEN_FILES)), hard))
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings),
            http=BoundedConnection,
            log_level="error",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=settings.exit_timeout,
        )
    )
    ports = (settings.http_port, settings.metrics_port)
    server.run([listen(settings.host, port) for port in ports])


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket whose connections send small packets at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.create_server((host, port), family=family, backlog=BACKLOG)
    # Connections inherit it. asyncio sets it for sockets that name their protocol only; without
    # it the body of a response waits 40 ms for the client to acknowledge the head.
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return server


if __name__ == "__main__":
    main(Path(sys.argv[1]))
