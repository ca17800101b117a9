"""`python -m styleclip_server.api SETTINGS NUMBER`: a process of the API server.

The launcher starts it. Beside its ports it listens at a socket of its own, since a connection to a
port may be given to any process.
"""

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


def main(path: Path, process: int) -> None:
    """Serve until a signal comes; requests under way are finished.

    Args:
        path: of the settings.
        process: the number of this process, from 0 on.
    """
    settings = Settings.load(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, OPEN_FILES)), hard))
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, process),
            http=BoundedConnection,
            log_level="error",
            access_log=False,
            server_header=False,
            ws="none",
            timeout_graceful_shutdown=settings.exit_timeout,
        )
    )
    is_shared = settings.processes > 1
    server.run(
        [
            listen(settings.host, settings.http_port, is_shared),
            listen(settings.host, settings.metrics_port, is_shared),
            listen_at_path(f"{settings.liveness_socket}{process}"),
        ]
    )


def listen(host: str, port: int, is_shared: bool = False) -> socket.socket:
    """Return a listening socket whose connections send small packets at once.

    Args:
        is_shared: other processes of this user may listen at the same port.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    server = socket.create_server(
        (host, port), family=family, backlog=BACKLOG, reuse_port=is_shared
    )
    # Connections inherit it. asyncio sets it for sockets that name their protocol only; without
    # it the body of a response waits 40 ms for the client to acknowledge the head.
    server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return server


def listen_at_path(path: str) -> socket.socket:
    """Return a listening socket of this machine alone, in place of one of an earlier process."""
    Path(path).unlink(missing_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(path)
    server.listen()
    return server


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
