"""The ports of a server: those of its clients, and Triton's own behind the API server."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.options import Options

TRITON_HOST = "127.0.0.1"  # only the API server may reach Triton


_EPHEMERAL_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 10_000
_ATTEMPTS = 100


class Ports(NamedTuple):
    """TCP ports; those of `triton_…` are private."""

    http: int
    grpc: int
    metrics: int
    triton_http: int
    triton_grpc: int
    triton_metrics: int


def list_candidates() -> range:
    """Return the TCP ports from which the kernel makes no outgoing connection; maybe none."""
    try:
        return range(_LOWEST, int(_EPHEMERAL_PORTS.read_text().split()[0]) - 1)
    except (OSError, ValueError):
        return range(0)


def find_free_port(host: str = TRITON_HOST) -> int:
    """Return a free TCP port from which the kernel makes no outgoing connection.

    A port that bind() chooses is one from which it makes some, so it may be taken before a server
    that is still loading its models listens there.
    """
    candidates = list_candidates()
    for port in (*random.sample(candidates, min(_ATTEMPTS, len(candidates))), 0):  # 0: any
        with socket.socket() as probe:  # without SO_REUSEADDR: not one that another has bound
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise ServerStartFailed(f"no port of {host} is free")


def choose_ports(options: Options) -> Ports:
    """Choose the ports of a server, and check that each is free.

    Raises:
        ServerStartFailed: one is taken, or the address is not this machine's.
    """
    with ExitStack() as stack:

        def bind(host: str, port: int, option: str) -> int:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            probe = stack.enter_context(socket.socket(family))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise ServerStartFailed(
                    f"port {port} of {host} cannot be used ({error.strerror}): stop what "
                    f"listens there, or choose another with {option}"
                ) from error
            return int(probe.getsockname()[1])

        public = {
            "--http-port": options.http_port,
            "--grpc-port": options.grpc_port,
            "--metrics-port": options.metrics_port,
        }
        return Ports(
            *(bind(options.host, port, option) for option, port in public.items()),
            *(bind(TRITON_HOST, find_free_port(), option) for option in public),
        )
