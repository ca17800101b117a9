"""Free TCP ports."""

import socket


def find_free_port() -> int:
    """Return a TCP port that is free on loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
