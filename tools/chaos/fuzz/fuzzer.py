"""The fuzzer: requests of every kind, drawn from a seed and sent by several threads."""

from __future__ import annotations

import itertools
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from tools.chaos.fuzz.grpc_requests import GrpcRequests
from tools.chaos.fuzz.http_requests import HttpRequests
from tools.chaos.fuzz.observer import Observer
from tools.chaos.fuzz.request import Request
from tools.chaos.fuzz.sockets import Sockets
from tools.chaos.load import PHOTOS
from tools.chaos.server import Server

QUIET_SECONDS = 5.0  # after the last request, in which memory may return
_BATCH = 100


class Fuzzer:
    """Draws requests for both protocols, the plain web API and bare sockets."""

    def __init__(self, server: Server, seed: int) -> None:
        self._rng = random.Random(seed)
        photos = [path.read_bytes() for path in PHOTOS]
        self._sources = (
            HttpRequests(server.http, photos, self._rng),
            GrpcRequests(server.grpc, photos, self._rng),
            Sockets(server.http, server.grpc, server.metrics, self._rng),
        )

    def draw(self) -> Request:
        """Return the next request. They are drawn in order and may be sent concurrently."""
        return self._rng.choice(self._sources).draw()


def fuzz(
    server: Server,
    count: int,
    seed: int,
    concurrency: int = 8,
    report: Callable[[int, Observer], None] = lambda sent, observer: None,
) -> dict[str, Any]:
    """Send `count` requests beside two bystanders; Ctrl-C ends it early.

    Args:
        report: gets the number of requests so far and the observer, after each batch.

    Returns:
        The outcomes by kind, processes that ended, lost requests of bystanders, and curves.
    """
    fuzzer, outcomes, start = Fuzzer(server, seed), Counter[str](), time.monotonic()
    requests = (fuzzer.draw() for _ in range(count))
    with Observer(server) as observer, ThreadPoolExecutor(concurrency) as executor:
        sent = 0
        with suppress(KeyboardInterrupt):
            while batch := list(itertools.islice(requests, _BATCH)):
                for request, outcome in zip(batch, executor.map(_send, batch), strict=True):
                    outcomes[f"{request.kind}: {outcome}"] += 1
                sent += len(batch)
                report(sent, observer)
        seconds = time.monotonic() - start
        time.sleep(QUIET_SECONDS)
    return {
        "requests": sent,
        "seed": seed,
        "seconds": round(seconds),
        "ends": observer.ends,
        "bystanders": [
            {
                "address": bystander.address,
                "answered": bystander.answered,
                "slowest s": round(bystander.slowest, 1),
                "lost": dict(bystander.lost),
            }
            for bystander in observer.bystanders
        ],
        "start, peak, end": observer.summarize_curve(),
        "outcomes": dict(outcomes.most_common()),
        "curve": observer.curve,
    }


def _send(request: Request) -> str:
    return request.send()
