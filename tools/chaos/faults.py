"""The faults. `inject` returns when the cause of the fault is gone; recovery starts then."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tools.chaos.server import Server, fill_file_system

SECONDS = 8.0  # duration of a fault that lasts
_CONNECT_SECONDS = 60.0


@dataclass(frozen=True)
class Fault:
    """A named fault."""

    name: str
    inject: Callable[[Server], None]


def kill(part: str) -> Callable[[Server], None]:
    """Return a fault that sends SIGKILL to one process whose command line contains `part`."""

    def inject(server: Server) -> None:
        server.find_processes(part)[0].kill()

    return inject


def fill_shared_memory(server: Server) -> None:
    filler = fill_file_system(server.resolve("/dev/shm"))
    time.sleep(SECONDS)
    filler.unlink()


def fill_disk(server: Server) -> None:
    filler = fill_file_system(server.resolve(server.disk))
    time.sleep(SECONDS)
    filler.unlink()


def fill_disk_and_kill_step(server: Server) -> None:
    filler = fill_file_system(server.resolve(server.disk))
    kill("/compose/1/")(server)
    time.sleep(SECONDS)
    filler.unlink()


def connect_slow_clients(server: Server) -> None:
    """Let 60 clients send a body byte by byte, and 60 read an answer byte by byte."""
    header = (
        b"POST /v2/models/edit_photo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
    )
    requests = b"GET /v2/models/stats HTTP/1.1\r\nHost: a\r\n\r\n" * 200
    with _connect(server.http, 60) as senders, _connect(server.http, 60) as readers:
        for sender in senders:
            sender.sendall(header)
        for reader in readers:
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            with suppress(OSError):
                reader.send(requests)
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline:
            for sender in senders:
                with suppress(OSError):
                    sender.send(b" ")
            for reader in readers:
                with suppress(OSError):
                    reader.recv(1, socket.MSG_DONTWAIT)
            time.sleep(0.5)


def open_idle_connections(server: Server) -> None:
    """Open 300 connections to each port that send nothing, or half of an HTTP/2 preface."""
    with _connect(server.http, 300), _connect(server.grpc, 300) as connections:
        for connection in connections[::2]:
            connection.sendall(b"PRI * HTTP/2.0\r\n\r\n")
        time.sleep(SECONDS)


def send_garbage(server: Server) -> None:
    """Send random bytes to both ports, some after a valid start."""
    rng = random.Random(7)
    prefixes = (
        b"",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"POST /v2/models/edit/infer HTTP/1.1\r\n",
    )
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for address in (server.http, server.grpc):
            with suppress(OSError), _connect(address, 1) as (connection,):
                connection.sendall(rng.choice(prefixes) + rng.randbytes(rng.randrange(1, 65536)))
                connection.settimeout(0.05)
                connection.recv(4096)


KILLS = [
    Fault(f"kill a process of {name}", kill(f"/{name}/1/"))
    for name in ("align", "direction", "compose", "clip_text", "e4e", "stylegan2")
] + [Fault("kill Triton", kill("bin/tritonserver"))]
FULL_FILE_SYSTEMS = [
    Fault("/dev/shm full for 8 s", fill_shared_memory),
    Fault("disk full for 8 s", fill_disk),
    Fault("disk full for 8 s, a step is killed", fill_disk_and_kill_step),
]
BAD_CLIENTS = [
    Fault("120 slow clients", connect_slow_clients),
    Fault("600 half-open connections", open_idle_connections),
    Fault("garbage on both ports", send_garbage),
]


@contextmanager
def _connect(address: str, count: int) -> Iterator[list[socket.socket]]:
    host, _, port = address.rpartition(":")
    connections: list[socket.socket] = []
    try:
        for _ in range(count):
            connections.append(socket.create_connection((host, int(port)), _CONNECT_SECONDS))
        yield connections
    finally:
        for connection in connections:
            connection.close()
