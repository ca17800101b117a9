"""What is done to the server. Each fault returns when its cause is gone; healing begins then."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tools.chaos.server import Server, fill

LASTS = 8.0  # seconds, for what goes on for a while


@dataclass(frozen=True)
class Fault:
    name: str
    hurt: Callable[[Server], None]


def kill(part: str) -> Callable[[Server], None]:
    """SIGKILL for one process of that model, or for Triton itself."""

    def hurt(server: Server) -> None:
        server.processes(part)[0].kill()

    return hurt


def full_shared_memory(server: Server) -> None:
    filler = fill(server.inside("/dev/shm"))
    time.sleep(LASTS)
    filler.unlink()


def full_disk(server: Server) -> None:
    filler = fill(server.inside(server.disk))
    time.sleep(LASTS)
    filler.unlink()


def full_disk_and_a_dead_step(server: Server) -> None:
    filler = fill(server.inside(server.disk))
    kill("/compose/1/")(server)
    time.sleep(LASTS)
    filler.unlink()


def slow_clients(server: Server) -> None:
    """60 clients that send the body of a request a byte at a time, and 60 that read so."""
    head = b"POST /v2/models/edit_photo/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n"
    ask = b"GET /v2/models/stats HTTP/1.1\r\nHost: a\r\n\r\n" * 200
    with _connections(server.http, 60) as senders, _connections(server.http, 60) as readers:
        for each in senders:
            each.sendall(head)
        for each in readers:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
            with suppress(OSError):
                each.send(ask)
        end = time.monotonic() + LASTS
        while time.monotonic() < end:
            for each in senders:
                with suppress(OSError):
                    each.send(b" ")
            for each in readers:
                with suppress(OSError):
                    each.recv(1, socket.MSG_DONTWAIT)
            time.sleep(0.5)


def half_open(server: Server) -> None:
    """300 connections to each port that say nothing, or only half of a hello."""
    with _connections(server.http, 300), _connections(server.grpc, 300) as some:
        for each in some[::2]:
            each.sendall(b"PRI * HTTP/2.0\r\n\r\n")
        time.sleep(LASTS)


def garbage(server: Server) -> None:
    """Random bytes, some after a sound beginning."""
    dice = random.Random(7)
    hellos = (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"POST /v2/models/edit/infer HTTP/1.1\r\n")
    end = time.monotonic() + LASTS
    while time.monotonic() < end:
        for address in (server.http, server.grpc):
            with suppress(OSError), _connections(address, 1) as (one,):
                one.sendall(dice.choice(hellos) + dice.randbytes(dice.randrange(1, 65536)))
                one.settimeout(0.05)
                one.recv(4096)


KILLS = [
    Fault(f"kill a process of {name}", kill(f"/{name}/1/"))
    for name in ("align", "direction", "compose", "clip_text", "e4e", "stylegan2")
] + [Fault("kill Triton", kill("bin/tritonserver"))]
FULL = [
    Fault("/dev/shm full for 8 s", full_shared_memory),
    Fault("disk full for 8 s", full_disk),
    Fault("disk full for 8 s, a step dies", full_disk_and_a_dead_step),
]
CLIENTS = [
    Fault("120 slow clients", slow_clients),
    Fault("600 half-open connections", half_open),
    Fault("garbage on both ports", garbage),
]


@contextmanager
def _connections(address: str, count: int) -> Iterator[list[socket.socket]]:
    host, _, port = address.rpartition(":")
    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            opened.append(socket.create_connection((host, int(port)), timeout=5))
        yield opened
    finally:
        for each in opened:
            each.close()
