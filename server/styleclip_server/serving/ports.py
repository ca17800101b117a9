"""The ports of a server: those of its clients, and Triton's own behind the API server."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import NamedTuple

from styleclip_server.serving.errors import ServerStartFailed
from styleclip_server.serving.options import Options

TRITON_HOST = "127.0.0.1"  # only the API server may reach Triton


class Ports(NamedTuple):
    """TCP ports; those of `triton_…` are private."""

    http: int
    grpc: int
    metrics: int
    triton_http: int
    triton_grpc: int
    triton_metrics: int


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
            *(bind(TRITON_HOST, 0, option) for option in public),
        )
