"""`python -m styleclip_server.api SETTINGS`: the front door, started by the launcher."""

from __future__ import annotations

import sys
from pathlib import Path

import uvicorn

from styleclip_server.api.app import create_app
from styleclip_server.api.http_connections import Connection
from styleclip_server.api.settings import Settings


def main(path: Path) -> None:
    """Serve until a signal comes; requests under way are finished."""
    settings = Settings.load(path)
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.http_port,
        http=Connection,
        log_level="error",
        server_header=False,
        ws="none",
        timeout_graceful_shutdown=settings.exit_timeout,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
