"""What `make chaos` runs: a server of our own under load is hurt in every way we know.

For each fault: what came of the requests of clients that do not try again (so that nothing is
hidden), how many were lost to clients that do, how long it took until all was well, and the
memory before and after. Writes out/chaos/<time>.json and prints a table. Exits with 1 when a
target is missed: healed within 10 s, no failure without a type, nothing lost to patient clients,
in an overload at the gateway the p99 of what is accepted at most twice that alone.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from styleclip_client import Client
from styleclip_server.serving.configs import QUEUE_LENGTH
from tools.chaos import clock, faults
from tools.chaos.faults import Fault
from tools.chaos.gateway import NGINX, Gateway
from tools.chaos.load import ANSWERED, PHOTOS, Load, Outcome, counts, percentile
from tools.chaos.server import Server

OUT = Path("out/chaos")
NOT_DONE = "not done"
Access = Sequence[dict[str, Any]]  # options of clients: none, or each its token
HEAL_SECONDS = 10
# What a client may be told and try again; the rest of the errors would be the server's fault.
RETRYABLE = {"ServerBusy", "ServerUnavailable"}
SHARE = 0.4  # of what the server can do; the rest is for healing


@dataclass
class Result:
    """What one fault did. Seconds and MB; `saw` and `patient` count what came of requests."""

    name: str
    saw: dict[str, int] = field(default_factory=dict)
    patient: dict[str, int] = field(default_factory=dict)
    healed: float | None = None
    memory: tuple[float, float] = (0, 0)
    note: str = ""
    messages: list[str] = field(default_factory=list)
    slow: bool = False  # accepted requests took more than twice as long as alone, at worst

    @property
    def well(self) -> bool:
        untyped = set(self.saw) - RETRYABLE - {ANSWERED}
        lost = set(self.patient) - {ANSWERED}
        if self.note.startswith(NOT_DONE):
            return True
        late = self.healed is None or self.healed > HEAL_SECONDS
        return not (untyped or lost or late or self.slow)


def capacity(server: Server) -> float:
    """Edits a second, one after the other."""
    with Client(server.grpc) as client:
        edits = [preset.edit for preset in client.domain().presets]
        for edit in edits:
            client.direction(edit)
        began = time.monotonic()
        for i in range(20):
            client.edit_photo(PHOTOS[i % len(PHOTOS)], edits[i % len(edits)])
        return 20 / (time.monotonic() - began)


def suffer(server: Server, fault: Fault, rate: float) -> Result:
    """Hurt the server under load, and wait until it is well again."""
    before = server.memory()
    with (
        Load(server.grpc, rate / 2, retries=0) as bare,
        Load(server.grpc, rate / 2, retries=12, timeout=60) as patient,
    ):
        time.sleep(3)
        began = time.monotonic()
        fault.hurt(server)
        gone = time.monotonic()
        healed = _healed(bare.outcomes, gone)
        time.sleep(3)
    saw = [one for one in bare.outcomes if one.ended >= began]
    if healed is not None:  # what failed later than it seemed well
        failed = [one.ended for one in saw if one.what != ANSWERED]
        healed = max(0.0, max(failed, default=gone) - gone)
    messages = sorted({f"{one.what}: {one.message}"[:200] for one in saw if one.what != ANSWERED})
    lasting = [one for one in patient.outcomes if one.ended >= began]
    time.sleep(2)
    return Result(
        fault.name, counts(saw), counts(lasting), healed, (before, server.memory()),
        messages=messages,
    )  # fmt: skip


def _healed(outcomes: list[Outcome], gone: float, seconds: float = 90) -> float | None:
    """Waits until three requests in a row were answered that began after the cause was gone."""
    while time.monotonic() < gone + seconds:
        late = sorted((one for one in outcomes if one.began >= gone), key=lambda one: one.began)
        if len(late) >= 3 and all(one.what == ANSWERED for one in late[-3:]):
            return time.monotonic() - gone
        time.sleep(0.1)
    return None


def overload(
    server: Server, rate: float, name: str, address: str, access: Access, *, twice: bool = False
) -> Result:
    """Ten times what it can do, for 15 s, at `address`: by a client for each of `access`.

    With `twice` it is a miss when the p99 of what is accepted is more than twice that alone.
    """
    before = server.memory()
    with Client(address, retries=0, **access[0]) as client:
        edits = [preset.edit for preset in client.domain().presets]
        alone = []
        for i in range(100):
            began = time.monotonic()
            client.edit_photo(PHOTOS[i % len(PHOTOS)], edits[i % len(edits)])
            alone.append(Outcome(began, time.monotonic() - began, ANSWERED))
    crowd = [Load(address, 10 * rate / len(access), retries=0, **each) for each in access]
    with ExitStack() as stack:
        for load in crowd:
            stack.enter_context(load)
        time.sleep(15)
        gone = time.monotonic()
    rush = [outcome for load in crowd for outcome in load.outcomes]
    with Load(address, SHARE * rate, retries=0, **access[0]) as after:
        healed = _healed(after.outcomes, gone)
    ms = {
        "alone p50": percentile(alone, 50),
        "alone p99": percentile(alone, 99),
        "accepted p50": percentile(rush, 50),
        "accepted p99": percentile(rush, 99),
        "refused p99": percentile(rush, 99, "ServerBusy"),
    }
    note = ", ".join(f"{name} {1000 * (value or 0):.0f} ms" for name, value in ms.items())
    slow = twice and (ms["accepted p99"] or 1e9) > 2 * (ms["alone p99"] or 0)
    return Result(name, counts(rush), {}, healed, (before, server.memory()), note, slow=slow)


def overload_at_the_gateway(server: Server, rate: float, name: str, inside: int) -> Result:
    """`overload` through compose's gateway, which lets so many requests `inside` the server."""
    if not NGINX:
        return Result(name, note=f"{NOT_DONE}: no nginx here")
    names = ("ada", "bob", "cleo", "dan")
    with tempfile.TemporaryDirectory() as folder:
        gateway = Gateway(
            Path(folder), grpc=server.grpc, http=server.http, inside=inside, names=names
        )
        try:
            access: Access = [{"token": gateway.tokens[name], "ca": gateway.ca} for name in names]
            address = f"grpcs://localhost:{gateway.port}"
            return overload(server, rate, name, address, access, twice=True)
        finally:
            gateway.stop()


def terminate(server: Server, rate: float) -> Result:
    """SIGTERM: what is under way is answered, what comes is refused, and it ends."""
    before = server.memory()
    with Load(server.grpc, 2 * rate, retries=0) as load:
        time.sleep(3)
        began = time.monotonic()
        ended = server.stop()
        time.sleep(1)
    under_way = [one for one in load.outcomes if one.began < began <= one.ended]
    saw = [one for one in load.outcomes if one.began >= began]
    told = ", ".join(f"{count} {what}" for what, count in counts(under_way).items())
    note = f"of {len(under_way)} under way: {told}; ended after {ended:.1f} s"
    messages = sorted({one.message for one in under_way if one.message})
    return Result("SIGTERM under load", counts(saw), {}, 0.0, (before, 0), note, messages)


def clock_jump() -> Result:
    """The clock jumps, in a machine of its own."""
    if not (clock.LINUX and os.geteuid() == 0):
        return Result(clock.CLOCK.name, note=f"{NOT_DONE}: needs root and linux.uml")
    try:
        told: Any = clock.in_a_machine_of_its_own()
    except clock.NoMachine as why:
        return Result(clock.CLOCK.name, note=f"{NOT_DONE}: {why}")
    return Result(**told)


def run(only: str, inside: int, tell: Any) -> list[Result]:
    """All faults whose name has `only` in it, one after the other."""
    results: list[Result] = []

    def add(result: Result) -> None:
        results.append(result)
        tell(result)

    server = Server()
    try:
        rate = capacity(server)
        chosen = [*faults.KILLS, *faults.FULL, *faults.CLIENTS]
        for fault in (fault for fault in chosen if only in fault.name):
            if fault in faults.FULL and not server.private:
                add(Result(fault.name, note=f"{NOT_DONE}: only root may mount a small file system"))
                continue
            add(suffer(server, fault, SHARE * rate))
        if only in (name := "10 times overload, direct"):
            add(overload(server, rate, name, server.grpc, [{}]))
        if only in (name := "10 times overload, gateway"):
            add(overload_at_the_gateway(server, rate, name, inside))
        if only in "SIGTERM under load":
            add(terminate(server, rate))
    finally:
        if server.process.poll() is None:
            server.stop()
    if only in clock.CLOCK.name:
        add(clock_jump())
    return results


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--only", default="", help="Faults with this in their name.")
@click.option("--inside", default=max(1, min((os.cpu_count() or 1) // 2, QUEUE_LENGTH["cpu"] - 1)),
              help="Requests that the gateway lets in at a time.")  # fmt: skip
def main(only: str, inside: int) -> None:
    """Hurt a server of our own under load, and tell what its clients saw."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))
    console = Console(width=200 if not sys.stdout.isatty() else None)
    results = run(only, inside, lambda result: console.print(_line(result), highlight=False))
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    about = {"cores": os.cpu_count(), "load average": os.getloadavg()}
    path.write_text(json.dumps(about | {"results": [asdict(one) for one in results]}, indent=1))
    table = Table(box=None)
    for name in ("fault", "clients that ask once", "patient clients", "healed s", "MB", ""):
        table.add_column(name)
    for one in results:
        table.add_row(*_cells(one), "" if one.well else "missed")
    console.print(table)
    console.print(f"written: {path}", highlight=False)
    sys.exit(not all(one.well for one in results))


def _cells(one: Result) -> tuple[str, ...]:
    def told(what: dict[str, int]) -> str:
        return ", ".join(f"{count} {name}" for name, count in what.items())

    healed = "no" if one.healed is None else f"{one.healed:.1f}"
    memory = "{:.0f} → {:.0f}".format(*one.memory)
    return (
        one.name,
        "; ".join(filter(None, (told(one.saw), one.note))),
        told(one.patient),
        healed,
        memory,
    )


def _line(one: Result) -> str:
    return " | ".join((*_cells(one), *one.messages))


if __name__ == "__main__":
    main()
