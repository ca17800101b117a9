"""Ten times as many requests as the server can answer, at each entrance and compose's gateway."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from styleclip_client import Client
from tools.chaos.experiment import LOAD_SHARE, SKIPPED, Result, wait_until_healed
from tools.chaos.gateway import NGINX, Gateway
from tools.chaos.load import ANSWERED, PHOTOS, Load, Outcome, count_outcomes, percentile
from tools.chaos.server import Server

GRPC = "10 times overload, API server, gRPC"
HTTP = "10 times overload, API server, HTTP"
TRITON = "10 times overload, Triton's own gRPC"
GATEWAY = "10 times overload, gateway"
USERS = ("ada", "bob", "cleo", "dan")  # the gateway limits the rate of each user
SECONDS = 15

Access = Sequence[dict[str, Any]]  # client options: none, or token and ca of each user


def run_overload(
    server: Server, rate: float, name: str, address: str, access: Access, *, bounded: bool = False
) -> Result:
    """Send ten times `rate` to `address` for 15 s, from one client per entry of `access`.

    With `bounded` the result is missed when the p99 of accepted requests is more than twice the p99
    of requests that are sent one at a time.
    """
    memory_before = server.memory()
    unloaded = _send_one_at_a_time(address, access[0])
    loads = [Load(address, 10 * rate / len(access), prepared=True, **options) for options in access]
    with ExitStack() as stack:
        for load in loads:
            stack.enter_context(load)
        time.sleep(SECONDS)
        end = time.monotonic()
    outcomes = [outcome for load in loads for outcome in load.outcomes]
    with Load(address, LOAD_SHARE * rate, retries=0, **access[0]) as after:
        healed = wait_until_healed(after.outcomes, end)
    seconds = {
        "unloaded p50": percentile(unloaded, 50),
        "unloaded p99": percentile(unloaded, 99),
        "accepted p50": percentile(outcomes, 50),
        "accepted p99": percentile(outcomes, 99),
        "refused p99": percentile(outcomes, 99, "ServerBusy"),
    }
    slow = (seconds["accepted p99"] or 1e9) > 2 * (seconds["unloaded p99"] or 0)
    return Result(
        name=name,
        single=count_outcomes(outcomes),
        healed=healed,
        memory=(memory_before, server.memory()),
        note=", ".join(f"{key} {1000 * (value or 0):.0f} ms" for key, value in seconds.items()),
        slow=bounded and slow,
    )


def _send_one_at_a_time(address: str, options: dict[str, Any]) -> list[Outcome]:
    with Client(address, retries=0, **options) as client:
        edits = [preset.edit for preset in client.domain().presets]
        outcomes = []
        for i in range(100):
            start = time.monotonic()
            client.edit_photo(PHOTOS[i % len(PHOTOS)], edits[i % len(edits)])
            outcomes.append(Outcome(start, time.monotonic() - start, ANSWERED))
        return outcomes


def run_overload_at_gateway(server: Server, rate: float, concurrency: int) -> Result:
    """Run the overload through compose's gateway, which admits `concurrency` requests at a time."""
    if not NGINX:
        return Result(GATEWAY, note=f"{SKIPPED}: nginx is not installed")
    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(
            Path(folder), grpc=server.grpc, http=server.http, concurrency=concurrency, names=USERS
        )
        try:
            access = [{"token": gateway.tokens[name], "ca": gateway.ca} for name in USERS]
            address = f"grpcs://localhost:{gateway.port}"
            return run_overload(server, rate, GATEWAY, address, access, bounded=True)
        finally:
            gateway.stop()
